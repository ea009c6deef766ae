//! A bad network on demand: loses, duplicates, reorders, corrupts and delays datagrams between an
//! endpoint and its socket, by a seed, so that the same run can be had again.
//!
//! A value without clock: time is passed in. It is meant for tests and demonstrations; a node without
//! `PAGEMESH_NET_*` settings has none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use crate::config::net::INJECTOR_QUEUE_MAX;
use crate::page::{Span, Time};

/// A probability in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Chance(pub u32);

impl Chance {
    /// So many of a hundred.
    pub const fn percent(percent: u32) -> Self {
        Chance(percent * 10_000)
    }

    fn happens(self, rng: &mut fastrand::Rng) -> bool {
        self.0 > 0 && rng.u32(0..1_000_000) < self.0
    }
}

/// What is done to datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InjectorConfig {
    /// A datagram vanishes.
    pub loss: Chance,
    /// A datagram arrives twice.
    pub duplicate: Chance,
    /// A datagram is held back, so that later ones overtake it.
    pub reorder: Chance,
    /// Some bits of a datagram flip.
    pub corrupt: Chance,
    /// Every datagram is late by this much.
    pub delay: Span,
    /// Where the random choices start.
    pub seed: u64,
}

/// A `PAGEMESH_NET_*` setting that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}={value}: expected {expected}")]
pub struct InjectorSettingError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl InjectorConfig {
    /// Reads `PAGEMESH_NET_LOSS`, `PAGEMESH_NET_DUP`, `PAGEMESH_NET_REORDER`, `PAGEMESH_NET_CORRUPT` (as in `5%` or
    /// `0.05`), `PAGEMESH_NET_DELAY` (as in `2ms` or `500us`) and `PAGEMESH_NET_SEED` through `lookup`. `None` if
    /// none of the first five is set.
    pub fn from_settings(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<InjectorConfig>, InjectorSettingError> {
        let chance = |name| setting(&lookup, name, "a share such as 5% or 0.05", parse_chance);
        let config = InjectorConfig {
            loss: chance("PAGEMESH_NET_LOSS")?,
            duplicate: chance("PAGEMESH_NET_DUP")?,
            reorder: chance("PAGEMESH_NET_REORDER")?,
            corrupt: chance("PAGEMESH_NET_CORRUPT")?,
            delay: setting(&lookup, "PAGEMESH_NET_DELAY", "a time such as 2ms or 500us", parse_span)?,
            seed: setting(&lookup, "PAGEMESH_NET_SEED", "a whole number", |text| text.parse().ok())?,
        };
        let is_idle = config == InjectorConfig { seed: config.seed, ..InjectorConfig::default() };
        Ok((!is_idle).then_some(config))
    }
}

fn setting<T: Default>(
    lookup: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, InjectorSettingError> {
    let Some(value) = lookup(name) else { return Ok(T::default()) };
    parse(value.trim()).ok_or(InjectorSettingError { name, value, expected })
}

fn parse_chance(text: &str) -> Option<Chance> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
        None => text.parse::<f64>().ok()?,
    };
    (0.0..=1.0).contains(&share).then(|| Chance((share * 1e6).round() as u32))
}

fn parse_span(text: &str) -> Option<Span> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ns = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(ns).map(Span)
}

/// What an injector has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InjectorCounters {
    /// Datagrams that came in.
    pub offered: u64,
    /// Datagrams that vanished, those included that found the queue full.
    pub lost: u64,
    /// Datagrams sent twice.
    pub duplicated: u64,
    /// Datagrams held back.
    pub reordered: u64,
    /// Datagrams with flipped bits.
    pub corrupted: u64,
}

/// Datagrams on their way through a bad network.
pub struct Injector {
    config: InjectorConfig,
    rng: fastrand::Rng,
    held: BinaryHeap<Reverse<Held>>,
    order: u64,
    spare: Vec<Vec<u8>>,
    counters: InjectorCounters,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Time,
    order: u64,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Injector {
    /// A network of this kind.
    pub fn new(config: InjectorConfig) -> Self {
        Injector {
            rng: fastrand::Rng::with_seed(config.seed),
            config,
            held: BinaryHeap::new(),
            order: 0,
            spare: Vec::new(),
            counters: InjectorCounters::default(),
        }
    }

    /// Another network from now on; what is on its way stays as it is.
    pub fn set_weather(&mut self, config: InjectorConfig) {
        self.config = config;
    }

    /// Takes a datagram, given as slices.
    pub fn offer(&mut self, now: Time, to: SocketAddr, slices: &[&[u8]]) {
        self.counters.offered += 1;
        if self.config.loss.happens(&mut self.rng) {
            self.counters.lost += 1;
            return;
        }
        let copies = if self.config.duplicate.happens(&mut self.rng) {
            self.counters.duplicated += 1;
            2
        } else {
            1
        };
        for _ in 0..copies {
            self.hold(now, to, slices);
        }
    }

    fn hold(&mut self, now: Time, to: SocketAddr, slices: &[&[u8]]) {
        if self.held.len() >= INJECTOR_QUEUE_MAX {
            self.counters.lost += 1;
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        for slice in slices {
            bytes.extend_from_slice(slice);
        }
        if self.config.corrupt.happens(&mut self.rng) && !bytes.is_empty() {
            self.counters.corrupted += 1;
            for _ in 0..self.rng.usize(1..=8) {
                let bit = self.rng.usize(0..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let mut due = now + self.config.delay;
        if self.config.reorder.happens(&mut self.rng) {
            self.counters.reordered += 1;
            due = due + Span(self.rng.u64(0..=self.config.delay.0.max(Span::from_us(100).0)));
        }
        self.order += 1;
        self.held.push(Reverse(Held { due, order: self.order, to, bytes }));
    }

    /// The next datagram that has come through.
    pub fn poll(&mut self, now: Time) -> Option<(SocketAddr, Vec<u8>)> {
        if self.held.peek()?.0.due > now {
            return None;
        }
        let held = self.held.pop()?.0;
        Some((held.to, held.bytes))
    }

    /// Gives a datagram's buffer back for the next one.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < 64 {
            self.spare.push(bytes);
        }
    }

    /// When [`Injector::poll`] has the next datagram.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.held.peek().map(|held| held.0.due)
    }

    /// What was done so far.
    pub fn counters(&self) -> InjectorCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &'static [(&str, &str)]) -> Result<Option<InjectorConfig>, InjectorSettingError> {
        InjectorConfig::from_settings(|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn settings_are_read_and_no_setting_means_no_injector() {
        assert_eq!(settings(&[]), Ok(None));
        assert_eq!(settings(&[("PAGEMESH_NET_SEED", "3")]), Ok(None));
        let config = settings(&[
            ("PAGEMESH_NET_LOSS", "5%"),
            ("PAGEMESH_NET_DUP", "0.01"),
            ("PAGEMESH_NET_DELAY", "2ms"),
            ("PAGEMESH_NET_SEED", "9"),
        ]);
        let expected = InjectorConfig {
            loss: Chance::percent(5),
            duplicate: Chance::percent(1),
            delay: Span::from_ms(2),
            seed: 9,
            ..InjectorConfig::default()
        };
        assert_eq!(config, Ok(Some(expected)));
    }

    #[test]
    fn a_bad_setting_is_named_with_its_value() {
        for pair in [
            &[("PAGEMESH_NET_LOSS", "120%")],
            &[("PAGEMESH_NET_LOSS", "much")],
            &[("PAGEMESH_NET_DELAY", "5")],
            &[("PAGEMESH_NET_SEED", "-1")],
        ] {
            let error = settings(pair).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}={}: expected", pair[0].0, pair[0].1)), "{error}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_weather() {
        let run = || {
            let config = InjectorConfig {
                loss: Chance::percent(10),
                duplicate: Chance::percent(10),
                reorder: Chance::percent(10),
                corrupt: Chance::percent(10),
                delay: Span::from_us(50),
                seed: 7,
            };
            let mut injector = Injector::new(config);
            let to = SocketAddr::from(([127, 0, 0, 1], 1));
            for i in 0..500u64 {
                injector.offer(Time(i * 1000), to, &[&i.to_le_bytes(), b"tail"]);
            }
            let all: Vec<_> = std::iter::from_fn(|| injector.poll(Time(u64::MAX))).collect();
            (all, injector.counters())
        };
        let (all, counters) = run();
        assert_eq!((all, counters), run());
        assert!(counters.lost > 20 && counters.duplicated > 20 && counters.corrupted > 20);
    }
}
