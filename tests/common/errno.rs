//! What the system said, beneath the errors that tell of it.

use std::error::Error;
use std::io;

/// The errno at the end of the chain of an error.
#[track_caller]
pub fn errno<T>(result: Result<T, impl Error + 'static>) -> i32 {
    let error = result.err().expect("it fails");
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return number;
        }
        cause = error.source();
    }
    panic!("no errno in '{error}'")
}
