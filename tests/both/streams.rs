//! Connections: their beginning, what passes, and their end.

use crate::side::{Side, Told};
use crate::stage::behaviours;

behaviours! {
    fn an_echo_and_an_end_in_order(stage) {
        let here = Side::new(&Told::default())
            .made(|transport| Ok(transport.write(b"ping")?))
            .data(|transport, _| {
                transport.lose_connection();
                Ok(())
            });
        let (here, there) = stage.meet(here, Side::echo(&Told::default()));
        stage.until(|| here.ends("lost") && there.ends("lost"));
        assert_eq!(here.lines(), ["made", "data", "lost: closed in order"]);
        assert_eq!(there.lines(), ["made", "data", "end", "lost: closed in order"]);
    }

    fn nobody_listens(stage) {
        let (port, address) = stage.listener(vec![]);
        port.stop_listening();
        stage.until(|| port.local_addr().is_err());
        let told = Told::default();
        stage.connect(address, Side::new(&told));
        stage.until(|| told.ends("failed"));
        assert_eq!(told.lines(), ["failed: ConnectionRefused"]);
    }

    fn much_is_whole_both_ways(stage) {
        let send = |transport: &strand_reactor::Transport| {
            transport.write(&[7; 1 << 20])?;
            transport.lose_write();
            Ok(())
        };
        let keep = |_: &strand_reactor::Transport| Ok(());
        let (one, other) = (Told::default(), Told::default());
        let (here, there) = stage.meet(
            Side::new(&one).made(send).end(keep),
            Side::new(&other).made(send).end(keep),
        );
        stage.until(|| here.ends("lost: closed") && there.ends("lost: closed"));
        assert_eq!((here.bytes.get(), there.bytes.get()), (1 << 20, 1 << 20));
    }

    fn an_abort_is_a_reset_for_the_peer(stage) {
        let (here, there) =
            stage.meet(Side::new(&Told::default()), Side::new(&Told::default()));
        here.transport().abort_connection();
        stage.until(|| here.ends("lost") && there.ends("lost"));
        assert_eq!(here.lines(), ["made", "lost: aborted"]);
        assert_eq!(there.lines(), ["made", "lost: the peer reset the connection"]);
    }

    fn a_reset_is_noticed_while_paused(stage) {
        let there = Side::new(&Told::default()).made(|transport| Ok(transport.pause_reading()?));
        let (here, there) = stage.meet(Side::new(&Told::default()), there);
        here.transport().abort_connection();
        stage.until(|| there.ends("lost"));
        assert_eq!(there.lines(), ["made", "lost: the peer reset the connection"]);
    }

    fn half_a_connection_goes_on(stage) {
        let here = Side::new(&Told::default()).made(|transport| {
            transport.write(b"question")?;
            transport.lose_write();
            Ok(())
        });
        let there = Side::new(&Told::default()).end(|transport| {
            transport.write(b"answer")?;
            transport.lose_connection();
            Ok(())
        });
        let (here, there) = stage.meet(here, there);
        stage.until(|| here.ends("lost") && there.ends("lost"));
        assert_eq!(here.lines(), ["made", "own end", "data", "end", "lost: closed in order"]);
        assert_eq!(there.lines(), ["made", "data", "end", "lost: closed in order"]);
        assert_eq!((here.bytes.get(), there.bytes.get()), (6, 8));
    }

    fn a_slow_reader_holds_its_writer_back(stage) {
        let there = Side::new(&Told::default()).made(|transport| Ok(transport.pause_reading()?));
        let (here, there) = stage.meet(Side::new(&Told::default()), there);
        here.transport().write(&[7; 16 << 20]).unwrap();
        stage.until(|| here.has("pause"));
        assert!(here.transport().queued_bytes() > 0);
        there.transport().resume_reading().unwrap();
        stage.until(|| here.has("resume") && there.bytes.get() == 16 << 20);
        assert_eq!(here.transport().queued_bytes(), 0);
    }

    fn a_completion_comes_when_all_is_taken(stage) {
        let (here, there) =
            stage.meet(Side::new(&Told::default()), Side::new(&Told::default()));
        let told = here.clone();
        let done = move |result: Result<usize, _>| told.note(format!("sent {}", result.unwrap()));
        here.transport().write_then(&[7; 1 << 20], done).unwrap();
        stage.until(|| here.has("sent 1048576") && there.bytes.get() == 1 << 20);
    }

    fn a_factory_may_refuse(stage) {
        let told = Told::default();
        let (_port, address) = stage.listener(vec![]);
        stage.connect(address, Side::new(&told));
        stage.until(|| told.ends("lost"));
        assert_eq!(told.lines().first().map(String::as_str), Some("made"));
    }

    fn a_failing_callback_closes_its_connection(stage) {
        let there = Side::new(&Told::default()).data(|_, _| anyhow::bail!("cannot read this"));
        let (here, there) = stage.meet(Side::new(&Told::default()), there);
        here.transport().write(b"x").unwrap();
        stage.until(|| here.ends("lost") && there.ends("lost"));
        assert_eq!(here.lines(), ["made", "end", "lost: closed in order"]);
        assert_eq!(there.lines(), ["made", "data", "lost: cannot read this"]);
    }

    fn both_ends_know_each_other(stage) {
        let (here, there) =
            stage.meet(Side::new(&Told::default()), Side::new(&Told::default()));
        let (here, there) = (here.transport(), there.transport());
        assert_eq!(here.local_addr().unwrap(), there.peer_addr().unwrap());
        assert_eq!(here.peer_addr().unwrap(), there.local_addr().unwrap());
        assert_eq!(here.local_addr().unwrap().ip(), stage.here_ip());
    }

    fn a_taken_number_of_a_listener_is_refused(stage) {
        let (_port, address) = stage.listener(vec![]);
        let taken = stage.there().listen_tcp(address, |_: strand_reactor::PeerAddr| {
            Some(Side::new(&Told::default()))
        });
        assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
