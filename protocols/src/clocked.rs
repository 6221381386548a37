//! What the services that tell the time have in common: a clock, and whom they answer.

/// Makes `$service`, a struct of a `guard` and a `clock`, answer each datagram with what `$answer`
/// makes of the time.
macro_rules! clocked {
    ($service:ident, $answer:path) => {
        impl $service {
            /// A service on the system's clock that answers no port under 1024.
            #[allow(
                clippy::disallowed_methods,
                reason = "the date, which no reactor tells; see `clock`"
            )]
            pub fn new() -> Self {
                Self { guard: crate::Guard::new(), clock: Box::new(std::time::SystemTime::now) }
            }

            /// Whether ports under 1024 are answered, too; see [`Guard`].
            pub fn allow_privileged_ports(mut self, on: bool) -> Self {
                self.guard = self.guard.allow_privileged_ports(on);
                self
            }

            /// Asks `clock` for the time instead of the system.
            pub fn clock(mut self, clock: impl FnMut() -> std::time::SystemTime + 'static) -> Self {
                self.clock = Box::new(clock);
                self
            }
        }

        impl Default for $service {
            fn default() -> Self {
                Self::new()
            }
        }

        impl std::fmt::Debug for $service {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($service))
                    .field("guard", &self.guard)
                    .finish_non_exhaustive()
            }
        }

        impl strand_reactor::DatagramProtocol for $service {
            fn datagram_received(
                &mut self,
                transport: &strand_reactor::DatagramTransport,
                datagram: strand_reactor::Datagram<'_>,
            ) -> anyhow::Result<()> {
                if self.guard.admits(datagram.source()) {
                    transport.write_with($answer((self.clock)()).as_ref(), &datagram.reply())?;
                }
                Ok(())
            }
        }
    };
}

pub(crate) use clocked;
