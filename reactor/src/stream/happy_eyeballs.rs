//! Happy Eyeballs version 2 (RFC 8305): in which order the addresses of a name are tried, and
//! when the next one is. A state machine without sockets or clock: [`Race::step`] is told what
//! happened and says what to do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// The "Connection Attempt Delay" (section 5).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The "Resolution Delay": how long answers for IPv4 wait for those for IPv6 (section 3).
pub(crate) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Addresses of one family, in the order of RFC 6724.
    Resolved(Vec<SocketAddr>),
    /// No more addresses will come.
    ResolutionEnded,
    /// The timer that was asked for is over.
    Timer,
    /// This attempt failed.
    Failed(SocketAddr),
    /// This attempt succeeded.
    Connected(SocketAddr),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin an attempt.
    Connect(SocketAddr),
    /// Set the one timer anew.
    SetTimer(Duration),
    /// The timer is of no use any more.
    CancelTimer,
    /// Give this attempt up.
    Cancel(SocketAddr),
    /// The race is won; the attempts left were cancelled.
    Done(SocketAddr),
    /// Every address has failed, or there was none.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    None,
    Resolution,
    Attempt,
}

/// One connection to be made to one of several addresses.
#[derive(Debug)]
pub(crate) struct Race {
    v6: VecDeque<SocketAddr>,
    v4: VecDeque<SocketAddr>,
    /// The family whose turn it is.
    v6_next: bool,
    known: Vec<SocketAddr>,
    running: Vec<SocketAddr>,
    resolving: bool,
    started: bool,
    over: bool,
    timer: Timer,
}

impl Race {
    pub(crate) fn new() -> Self {
        Self {
            v6: VecDeque::new(),
            v4: VecDeque::new(),
            v6_next: true,
            known: Vec::new(),
            running: Vec::new(),
            resolving: true,
            started: false,
            over: false,
            timer: Timer::None,
        }
    }

    /// What to do now that this happened. Nothing once the race is over.
    pub(crate) fn step(&mut self, happening: Happening) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        match happening {
            Happening::Resolved(addresses) => {
                for address in addresses {
                    self.add(address);
                }
                self.after_resolution(&mut actions);
            }
            Happening::ResolutionEnded => {
                self.resolving = false;
                self.after_resolution(&mut actions);
            }
            Happening::Timer => {
                self.timer = Timer::None;
                self.next(&mut actions);
            }
            Happening::Failed(address) => {
                let before = self.running.len();
                self.running.retain(|running| *running != address);
                // At once, without waiting for the delay to be over.
                if self.running.len() < before {
                    self.next(&mut actions);
                }
            }
            Happening::Connected(address) => {
                if self.running.contains(&address) {
                    self.over = true;
                    self.cancel_timer(&mut actions);
                    let losers = self.running.drain(..).filter(|running| *running != address);
                    actions.extend(losers.map(Action::Cancel));
                    actions.push(Action::Done(address));
                }
            }
        }
        self.check_lost(&mut actions);
        actions
    }

    fn add(&mut self, address: SocketAddr) {
        if self.known.contains(&address) {
            return;
        }
        self.known.push(address);
        match address {
            SocketAddr::V6(_) => self.v6.push_back(address),
            SocketAddr::V4(_) => self.v4.push_back(address),
        }
    }

    fn after_resolution(&mut self, actions: &mut Vec<Action>) {
        if self.started {
            // A race that had run out of addresses goes on with the new ones.
            if self.running.is_empty() && self.timer == Timer::None {
                self.next(actions);
            } else if self.timer == Timer::None && self.has_next() {
                self.set_timer(Timer::Attempt, ATTEMPT_DELAY, actions);
            }
        } else if !self.v6.is_empty() || !self.resolving {
            self.next(actions);
        } else if self.has_next() && self.timer == Timer::None {
            self.set_timer(Timer::Resolution, RESOLUTION_DELAY, actions);
        }
    }

    fn has_next(&self) -> bool {
        !self.v6.is_empty() || !self.v4.is_empty()
    }

    /// Begins the next attempt, if there is an address left for it.
    fn next(&mut self, actions: &mut Vec<Action>) {
        let (first, second) = match self.v6_next {
            true => (&mut self.v6, &mut self.v4),
            false => (&mut self.v4, &mut self.v6),
        };
        let Some(address) = first.pop_front().or_else(|| second.pop_front()) else {
            self.cancel_timer(actions);
            return;
        };
        self.started = true;
        self.v6_next = address.is_ipv4();
        self.running.push(address);
        actions.push(Action::Connect(address));
        if self.has_next() {
            self.set_timer(Timer::Attempt, ATTEMPT_DELAY, actions);
        } else {
            self.cancel_timer(actions);
        }
    }

    fn set_timer(&mut self, timer: Timer, delay: Duration, actions: &mut Vec<Action>) {
        self.timer = timer;
        actions.push(Action::SetTimer(delay));
    }

    fn cancel_timer(&mut self, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.timer, Timer::None) != Timer::None {
            actions.push(Action::CancelTimer);
        }
    }

    fn check_lost(&mut self, actions: &mut Vec<Action>) {
        if !self.over && !self.resolving && self.running.is_empty() && !self.has_next() {
            self.over = true;
            self.cancel_timer(actions);
            actions.push(Action::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::Action::{Cancel, CancelTimer, Connect, Done, Lost, SetTimer};
    use super::*;

    fn v4(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 80))
    }

    fn v6(host: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 80))
    }

    #[test]
    fn families_alternate_beginning_with_ipv6() {
        let mut race = Race::new();
        let all = vec![v4(1), v4(2), v6(1), v6(2), v6(3)];
        let mut order = Vec::new();
        let mut actions = race.step(Happening::Resolved(all));
        while let Some(Connect(address)) = actions.first() {
            order.push(*address);
            actions = race.step(Happening::Timer);
        }
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    }

    #[test]
    fn the_next_attempt_comes_after_the_delay_and_losers_are_cancelled() {
        let mut race = Race::new();
        let first = race.step(Happening::Resolved(vec![v6(1), v4(1)]));
        assert_eq!(first, [Connect(v6(1)), SetTimer(ATTEMPT_DELAY)]);
        assert_eq!(race.step(Happening::ResolutionEnded), []);
        assert_eq!(race.step(Happening::Timer), [Connect(v4(1))]);
        assert_eq!(race.step(Happening::Connected(v4(1))), [Cancel(v6(1)), Done(v4(1))]);
        assert_eq!(race.step(Happening::Failed(v6(1))), []);
    }

    #[test]
    fn a_failure_advances_at_once() {
        let mut race = Race::new();
        race.step(Happening::Resolved(vec![v6(1), v4(1)]));
        race.step(Happening::ResolutionEnded);
        assert_eq!(race.step(Happening::Failed(v6(1))), [Connect(v4(1)), CancelTimer]);
        assert_eq!(race.step(Happening::Failed(v4(1))), [Lost]);
    }

    #[test]
    fn ipv4_waits_a_moment_for_ipv6() {
        let mut race = Race::new();
        let waits = race.step(Happening::Resolved(vec![v4(1)]));
        assert_eq!(waits, [SetTimer(RESOLUTION_DELAY)]);
        let better = race.step(Happening::Resolved(vec![v6(1)]));
        assert_eq!(better, [Connect(v6(1)), SetTimer(ATTEMPT_DELAY)]);

        let mut race = Race::new();
        race.step(Happening::Resolved(vec![v4(1)]));
        assert_eq!(race.step(Happening::Timer), [Connect(v4(1))]);
        // What comes late is tried after the delay.
        let late = race.step(Happening::Resolved(vec![v6(1)]));
        assert_eq!(late, [SetTimer(ATTEMPT_DELAY)]);
    }

    #[test]
    fn the_end_of_resolution_begins_without_waiting() {
        let mut race = Race::new();
        race.step(Happening::Resolved(vec![v4(1)]));
        assert_eq!(race.step(Happening::ResolutionEnded), [Connect(v4(1)), CancelTimer]);
    }

    #[test]
    fn no_address_at_all_is_lost() {
        assert_eq!(Race::new().step(Happening::ResolutionEnded), [Lost]);
    }

    #[test]
    fn a_race_that_ran_out_goes_on_with_what_comes_late() {
        let mut race = Race::new();
        race.step(Happening::Resolved(vec![v6(1)]));
        assert_eq!(race.step(Happening::Failed(v6(1))), []);
        assert_eq!(race.step(Happening::Resolved(vec![v4(1)])), [Connect(v4(1))]);
    }

    proptest! {
        #[test]
        fn every_address_is_tried_once_and_the_race_ends_once(
            steps in prop::collection::vec((0..5_u8, any::<usize>()), 0..80),
        ) {
            let (mut race, mut timer, mut ended) = (Race::new(), false, 0);
            let (mut tried, mut running) = (HashSet::new(), Vec::new());
            let mut known = HashSet::new();
            let last = [(1, 0)].into_iter();
            let fail = std::iter::repeat_n((3, 0), 100);
            for (what, at) in steps.into_iter().chain(last).chain(fail) {
                let host = at % 20;
                let happening = match what {
                    0 if !race.resolving => continue,
                    0 => {
                        let address = if host % 2 == 0 { v4(host as u8) } else { v6(host as u16) };
                        known.insert(address);
                        Happening::Resolved(vec![address])
                    }
                    1 => Happening::ResolutionEnded,
                    2 if !std::mem::take(&mut timer) => continue,
                    2 => Happening::Timer,
                    _ if running.is_empty() => continue,
                    3 => Happening::Failed(running.remove(at % running.len())),
                    _ => Happening::Connected(running.remove(at % running.len())),
                };
                let was_over = race.over;
                let actions = race.step(happening);
                prop_assert!(!was_over || actions.is_empty());
                for action in actions {
                    match action {
                        Connect(address) => {
                            prop_assert!(tried.insert(address), "tried twice");
                            running.push(address);
                        }
                        SetTimer(_) => timer = true,
                        CancelTimer => timer = false,
                        Cancel(address) => running.retain(|other| *other != address),
                        Done(_) => ended += 1,
                        Lost => {
                            ended += 1;
                            prop_assert_eq!(&tried, &known);
                        }
                    }
                }
            }
            prop_assert_eq!(ended, 1);
            prop_assert!(running.is_empty() && !timer);
        }
    }
}
