//! Small standard protocols for the Strand reactor.
