//! What the workers have in common, and what they have not.

use std::cell::Cell;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread::ThreadId;
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, PeerAddr, Protocol, Reactor,
    SystemResolver, TcpOptions, Transport, UdpOptions, Workers, run_per_core,
};

use crate::watchdog::watchdog;

/// Answers with the index of its worker, and counts in what cannot leave its thread.
struct Answer {
    index: u8,
    answered: Rc<Cell<usize>>,
}

impl DatagramProtocol for Answer {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.answered.set(self.answered.get() + 1);
        Ok(transport.write_to(&[self.index], datagram.source())?)
    }
}

impl Protocol for Answer {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.write(&[self.index])?;
        transport.lose_connection();
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Tells a client, on its own thread, where the workers are; the client ends them.
fn with_client(
    workers: usize,
    listen: impl Fn(&Handle, usize, u16) -> anyhow::Result<SocketAddr> + Send + Sync,
    client: impl FnOnce(SocketAddr) + Send,
) {
    let port = AtomicU16::new(0);
    let (send, ready) = channel::<(SocketAddr, Workers)>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (server, workers) = ready.recv().unwrap();
            // Whatever it finds, they end.
            let _end = Ends(workers);
            client(server);
        });
        run_per_core(workers, |handle, index| {
            let address = listen(handle, index, port.load(SeqCst))?;
            port.store(address.port(), SeqCst);
            if index + 1 == workers {
                send.send((address, handle.workers()))?;
            }
            Ok(())
        })
        .unwrap();
    });
}

struct Ends(Workers);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn of_64_flows_each_of_two_workers_gets_at_least_a_quarter() {
    let _watchdog = watchdog();
    let listen = |handle: &Handle, index: usize, port: u16| {
        let options = UdpOptions::from((Ipv4Addr::LOCALHOST, port)).reuse_port(true);
        let answer = Answer { index: index as u8, answered: Rc::default() };
        Ok(handle.listen_udp(options, answer)?.local_addr()?)
    };
    with_client(2, listen, |server| {
        // The system hashes the flows with a secret: once in some 20,000 times even a fair hash
        // gives one worker fewer than 16 of 64.
        let spread = || {
            let mut flows = [0; 2];
            for _ in 0..64 {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(server).unwrap();
                let workers = [(); 3].map(|()| {
                    let mut answer = [9; 8];
                    client.send(b"who?").unwrap();
                    assert_eq!(client.recv(&mut answer).unwrap(), 1);
                    answer[0]
                });
                assert!(workers.iter().all(|worker| *worker == workers[0]), "a flow stays");
                flows[usize::from(workers[0])] += 1;
            }
            flows
        };
        let tries: Vec<[i32; 2]> = (0..3).map(|_| spread()).collect();
        assert!(tries.iter().any(|flows| flows.iter().all(|flows| *flows >= 16)), "{tries:?}");
    });
}

#[test]
fn connections_are_spread_over_the_workers() {
    let _watchdog = watchdog();
    let listen = |handle: &Handle, index: usize, port: u16| {
        let options = TcpOptions::from((Ipv4Addr::LOCALHOST, port)).reuse_port(true);
        let answered = Rc::new(Cell::new(0));
        let factory =
            move |_: PeerAddr| Some(Answer { index: index as u8, answered: Rc::clone(&answered) });
        Ok(handle.listen_tcp(options, factory)?.local_addr()?)
    };
    with_client(2, listen, |server| {
        let mut connections = [0; 2];
        for _ in 0..64 {
            let mut stream = TcpStream::connect(server).unwrap();
            let mut worker = Vec::new();
            stream.read_to_end(&mut worker).unwrap();
            connections[usize::from(worker[0])] += 1;
        }
        assert!(connections.iter().all(|connections| *connections > 0), "{connections:?}");
    });
}

#[test]
fn each_worker_is_a_thread_and_a_reactor_of_its_own_set_up_in_order() {
    let _watchdog = watchdog();
    let order: Mutex<Vec<(usize, ThreadId, String)>> = Mutex::default();
    let begun = AtomicUsize::new(0);
    run_per_core(5, |handle, index| {
        assert_eq!(begun.fetch_add(1, SeqCst), index, "one after another, in order");
        assert!(!handle.is_running());
        let thread = std::thread::current();
        let name = thread.name().unwrap().to_owned();
        order.lock().unwrap().push((index, thread.id(), name));
        // Nothing is left to do: each run ends by itself, and the others begin all the same.
        Ok(())
    })
    .unwrap();
    let order = order.into_inner().unwrap();
    let indices: Vec<_> = order.iter().map(|(index, ..)| *index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4], "more workers than cores, here or elsewhere");
    for (index, thread, name) in &order {
        assert_eq!(*name, format!("strand-{index}"));
        assert_ne!(*thread, std::thread::current().id());
        assert_eq!(order.iter().filter(|(_, other, _)| other == thread).count(), 1);
    }
}

/// The cores that a thread may run on, as its `status` in /proc tells.
#[cfg(target_os = "linux")]
fn cores_in(status: &str) -> String {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

#[cfg(target_os = "linux")]
fn allowed() -> String {
    cores_in(&std::fs::read_to_string("/proc/thread-self/status").unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn jobs_and_lookups_of_a_pinned_worker_may_run_on_every_core() {
    let _watchdog = watchdog();
    let all = allowed();
    let (send, seen) = channel();
    run_per_core(2, |handle, index| {
        let (job, lookup) = (send.clone(), send.clone());
        handle.defer_to_thread(allowed, move |_, cores| job.send(cores.unwrap()));
        if index == 0 {
            return Ok(());
        }
        handle.set_resolver(SystemResolver::new());
        // That is for the system to read: a thread has done it, and waits for more.
        handle.resolve("127.1", move |_| {
            for task in std::fs::read_dir("/proc/self/task").unwrap() {
                // Threads of other tests may have ended meanwhile.
                let status = std::fs::read_to_string(task.unwrap().path().join("status"));
                let status = status.unwrap_or_default();
                if status.starts_with("Name:\tresolver\n") {
                    lookup.send(cores_in(&status)).unwrap();
                }
            }
        });
        Ok(())
    })
    .unwrap();
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen.len(), 3, "two jobs and a lookup: {seen:?}");
    assert!(seen.iter().all(|cores| *cores == all), "{seen:?} of {all}");
}

#[cfg(target_os = "linux")]
#[test]
fn each_worker_runs_on_one_core_and_the_calling_thread_on_all_that_it_had() {
    let _watchdog = watchdog();
    let before = allowed();
    let cores: Mutex<Vec<String>> = Mutex::default();
    run_per_core(3, |_, _| {
        cores.lock().unwrap().push(allowed());
        Ok(())
    })
    .unwrap();
    assert_eq!(allowed(), before);
    let cores = cores.into_inner().unwrap();
    assert!(cores.iter().all(|core| core.parse::<usize>().is_ok()), "{cores:?} of {before}");
    let several = std::thread::available_parallelism().unwrap().get() > 1;
    assert_eq!(cores[0] != cores[1], several, "{cores:?} of {before}");
}

#[test]
fn the_settings_of_the_builder_are_those_of_each_worker() {
    let _watchdog = watchdog();
    let (send, spun) = channel();
    Reactor::builder()
        .busy_poll(Duration::from_micros(1))
        .run_per_core(2, |handle, _| {
            // However late the first is called: the wait for the second begins after it.
            let send = send.clone();
            handle.call_later(Duration::from_millis(1), move |handle| {
                handle.call_later(Duration::from_millis(20), move |handle| {
                    send.send(handle.stats().busy_polls)
                });
            });
            Ok(())
        })
        .unwrap();
    let spun: Vec<_> = spun.try_iter().collect();
    assert!(spun.len() == 2 && spun.iter().all(|polls| *polls > 0), "{spun:?}");
}

#[test]
fn a_worker_calls_on_each_and_on_one_of_the_others() {
    let _watchdog = watchdog();
    let (send, told) = channel();
    let tell = move |send: &Sender<(usize, ThreadId)>, index| {
        send.send((index, std::thread::current().id())).unwrap();
    };
    run_per_core(3, |handle, index| {
        handle.call_later(Duration::from_secs(600), |_| {});
        if index == 2 {
            let workers = handle.workers();
            assert_eq!(workers.remotes().len(), 3);
            let all = send.clone();
            assert_eq!(workers.call_on_each(move |_, index| tell(&all, index)), 3);
            let one = send.clone();
            let stopping = workers.clone();
            workers.remotes()[1].call_from_thread(move |handle| {
                tell(&one, 100);
                assert_eq!(handle.workers().remotes().len(), 3);
                // Each was told by now, or will be before it stops: calls keep their order.
                stopping.call_on_each(|handle, _| handle.stop());
            })?;
        }
        Ok(())
    })
    .unwrap();
    let mut told: Vec<_> = told.try_iter().collect();
    told.sort_by_key(|(index, _)| *index);
    let indices: Vec<_> = told.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [0, 1, 2, 100]);
    assert_eq!(told[1].1, told[3].1, "worker 1 was called twice");
    assert_ne!(told[0].1, told[1].1);
}

#[test]
fn workers_that_have_ended_are_called_no_more() {
    let _watchdog = watchdog();
    let (send, workers) = channel();
    run_per_core(2, |handle, _| Ok(send.send(handle.workers())?)).unwrap();
    let workers = workers.recv().unwrap();
    assert_eq!(workers.call_on_each(|_, _| {}), 0);
    workers.stop();
    assert!(workers.remotes()[1].call_from_thread(|_| {}).is_err());
}
