//! The text of an error that is the user's.

use std::fmt;

/// An error with its causes. Each is told once: the errors of this crate, and many others, have
/// the text of their causes in their own.
pub(crate) struct Causes<'a>(pub(crate) &'a anyhow::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        for cause in self.0.chain().skip(1) {
            let text = cause.to_string();
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::rc::Rc;

    use super::*;
    use crate::{ConnectionLost, ListenError};

    #[test]
    fn every_cause_is_told_and_none_twice() {
        let source = io::Error::other("no luck");
        let address = "127.0.0.1:9".parse().unwrap();
        let error = anyhow::Error::new(ListenError::Bind { address, source });
        let text = "cannot listen on 127.0.0.1:9: no luck";
        assert_eq!(Causes(&error).to_string(), text);
        let error = error.context("").context("port of the game").context("game");
        assert_eq!(Causes(&error).to_string(), format!("game: port of the game: {text}"));
        let lost = ConnectionLost::Failed(Rc::new(anyhow::anyhow!("low").context("high")));
        assert_eq!(lost.to_string(), "high: low");
        let error = anyhow::anyhow!("low").context("middle: low").context("high");
        assert_eq!(Causes(&error).to_string(), "high: middle: low");
        let error = anyhow::anyhow!("low").context("middle").context("high: middle: low");
        assert_eq!(Causes(&error).to_string(), "high: middle: low");
    }
}
