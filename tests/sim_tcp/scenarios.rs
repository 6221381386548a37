//! What two ends of a connection do, the same over the system and in simulation.

use std::cell::RefCell;
use std::rc::Rc;

use strand_reactor::Transport;

use super::support::{Log, Side, pattern};

/// The sides of a scenario: the server's, none if it takes no connection, and the client's.
pub struct Scenario {
    pub name: &'static str,
    pub sides: fn(&Log, &Log) -> (Option<Side>, Side),
    /// Whether anybody listens.
    pub listens: bool,
}

const fn scenario(name: &'static str, sides: fn(&Log, &Log) -> (Option<Side>, Side)) -> Scenario {
    Scenario { name, sides, listens: true }
}

/// Does something with the transport of the other side, once that is connected.
type Shared = Rc<RefCell<Option<Transport>>>;

fn share(shared: &Shared) -> impl FnMut(&Transport) -> anyhow::Result<()> + use<> {
    let shared = Rc::clone(shared);
    move |transport| {
        *shared.borrow_mut() = Some(transport.clone());
        Ok(())
    }
}

fn echo(transport: &Transport, side: &Rc<RefCell<Vec<u8>>>) -> anyhow::Result<()> {
    let data = std::mem::take(&mut *side.borrow_mut());
    Ok(transport.write(&data)?)
}

/// Writes something that has left when this returns.
fn write_now(transport: &Transport, len: usize) -> anyhow::Result<()> {
    transport.write(&pattern(len))?;
    Ok(transport.flush()?)
}

pub const SCENARIOS: &[Scenario] = &[
    scenario("an echo, and the client closes", |server, client| {
        let side = Side::new(server);
        let received = Rc::clone(&side.received);
        let server = side.data(move |transport| echo(transport, &received));
        let client = Side::new(client).made(|transport| Ok(transport.write(b"ping")?)).after(
            4,
            |transport| {
                transport.lose_connection();
                Ok(())
            },
        );
        (Some(server), client)
    }),
    scenario("the client closes at once", |server, client| {
        let client = Side::new(client).made(|transport| {
            transport.lose_connection();
            Ok(())
        });
        (Some(Side::new(server)), client)
    }),
    scenario("the server greets and closes", |server, client| {
        (Some(Side::new(server).sends(b"hello".to_vec())), Side::new(client))
    }),
    scenario("both close at once", |server, client| {
        let close = |transport: &Transport| {
            transport.lose_connection();
            Ok(())
        };
        (Some(Side::new(server).made(close)), Side::new(client).made(close))
    }),
    scenario("both send much and close", |server, client| {
        let (server, client) = (Side::new(server), Side::new(client));
        let send = |transport: &Transport| {
            transport.write(&pattern(50_000))?;
            transport.lose_write();
            Ok(())
        };
        let keep = |_: &Transport| Ok(());
        (Some(server.made(send).half(keep)), client.made(send).half(keep))
    }),
    scenario("a question, its end, and the answer", |server, client| {
        let server = Side::new(server).half(|transport| {
            transport.write(&pattern(50_000))?;
            transport.lose_connection();
            Ok(())
        });
        let client = Side::new(client).made(|transport| {
            transport.write(&pattern(200_000))?;
            transport.lose_write();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("the client ends its half, the server closes by default", |server, client| {
        let client = Side::new(client).made(|transport| {
            transport.lose_write();
            Ok(())
        });
        (Some(Side::new(server)), client)
    }),
    scenario("the server ends its half, the client writes on", |server, client| {
        let server = Side::new(server).made(|transport| {
            transport.lose_write();
            Ok(())
        });
        let client = Side::new(client).half(|transport| {
            transport.write(&pattern(100_000))?;
            transport.lose_connection();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("the client aborts after the greeting", |server, client| {
        let server = Side::new(server).made(|transport| Ok(transport.write(b"hello")?));
        let client = Side::new(client).after(5, |transport| {
            transport.abort_connection();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("the server aborts after the question", |server, client| {
        let server = Side::new(server).after(4, |transport| {
            transport.abort_connection();
            Ok(())
        });
        let client = Side::new(client).made(|transport| Ok(transport.write(b"ping")?));
        (Some(server), client)
    }),
    scenario("the client writes and aborts in one breath", |server, client| {
        let server = Side::new(server).made(|transport| Ok(transport.write(b"hello")?));
        let client = Side::new(client).after(5, |transport| {
            write_now(transport, 1000)?;
            transport.abort_connection();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("an abort after the own end", |server, client| {
        let server = Side::new(server)
            .made(|transport| Ok(transport.write(b"hello")?))
            .half(|transport| Ok(transport.write(b"bye")?));
        let client = Side::new(client)
            .made(|transport| {
                transport.lose_write();
                Ok(())
            })
            .after(8, |transport| {
                transport.abort_connection();
                Ok(())
            });
        (Some(server), client)
    }),
    scenario("the answer to an end is an abort", |server, client| {
        let server = Side::new(server).half(|transport| {
            transport.abort_connection();
            Ok(())
        });
        let client = Side::new(client).made(|transport| {
            transport.lose_write();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("a reset while the server does not read", |server, client| {
        let server = Side::new(server).made(|transport| {
            transport.pause_reading()?;
            Ok(transport.write(b"hello")?)
        });
        let client = Side::new(client).after(5, |transport| {
            write_now(transport, 1000)?;
            transport.abort_connection();
            Ok(())
        });
        (Some(server), client)
    }),
    scenario("a writer is held back until its reader reads", |server, client| {
        let reader = Shared::default();
        let mut share = share(&reader);
        let server = Side::new(server).made(move |transport| {
            transport.pause_reading()?;
            share(transport)?;
            Ok(transport.write(b"hello")?)
        });
        let log = Rc::clone(client);
        let client = Side::new(client)
            .after(5, |transport| {
                transport.write(&pattern(16 << 20))?;
                transport.lose_write();
                Ok(())
            })
            .paused(move |_| {
                log.borrow_mut().push("held back".to_owned());
                if let Some(reader) = reader.borrow_mut().take() {
                    reader.resume_reading()?;
                }
                Ok(())
            });
        (Some(server), client)
    }),
    scenario("the server wants no connection", |_, client| (None, Side::new(client))),
    Scenario {
        name: "nobody listens",
        sides: |_, client| (None, Side::new(client)),
        listens: false,
    },
];
