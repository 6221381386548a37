//! How long packets are under way: fixed, or drawn from a distribution.
//!
//! The distributions are computed with additions, multiplications and square roots alone, which
//! IEEE 754 defines to the last bit: `ln` and `exp` of a system's library differ between systems,
//! and one bit makes another trace.

use std::time::Duration;

use fastrand::Rng;

use super::nanos;

/// The longest latency drawn from a distribution with a tail, which has no end of its own: one day.
const LONGEST_NS: u64 = 86_400 * 1_000_000_000;

/// The time that a packet is under way, from the end of its sending to its arrival.
///
/// A `Duration` will do wherever one is wanted: every packet takes that long.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::{Latency, Link};
///
/// let satellite = Link::new().latency(Duration::from_millis(280));
/// let ms = Duration::from_millis(1);
/// let wireless = Link::new().latency(Latency::log_normal(5 * ms, 0.8));
/// assert_ne!(satellite, wireless);
/// assert_eq!(Latency::from(ms), Latency::fixed(ms));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Distribution);

#[derive(Clone, Debug, PartialEq)]
enum Distribution {
    Fixed(u64),
    /// From the first, so many more.
    Uniform(u64, u64),
    Normal {
        mean: f64,
        deviation: f64,
    },
    LogNormal {
        median: f64,
        sigma: f64,
    },
    Pareto {
        minimum: f64,
        exponent: f64,
    },
}

impl Latency {
    /// No time at all.
    pub const ZERO: Self = Self(Distribution::Fixed(0));

    /// Always the same.
    pub fn fixed(latency: Duration) -> Self {
        Self(Distribution::Fixed(nanos(latency)))
    }

    /// Anything from `least` to `most`, both included, equally likely.
    ///
    /// # Panics
    ///
    /// If `least` is more than `most`.
    pub fn uniform(least: Duration, most: Duration) -> Self {
        assert!(least <= most, "a latency from {least:?} to {most:?}: the lesser comes first");
        let (least, most) = (nanos(least), nanos(most));
        Self(Distribution::Uniform(least, most - least))
    }

    /// The normal distribution; what would be negative becomes zero, what would be more than a day
    /// a day.
    pub fn normal(mean: Duration, deviation: Duration) -> Self {
        let (mean, deviation) = (nanos(mean) as f64, nanos(deviation) as f64);
        Self(Distribution::Normal { mean, deviation })
    }

    /// The log-normal distribution, what queues and radio make of most paths: half of all packets
    /// take less than `median`, and the tail grows with `sigma` (the deviation of the logarithm):
    /// at 0.5 one packet in a hundred takes 3 times the median, at 1.0 10 times. A day is the most
    /// that is drawn.
    ///
    /// # Panics
    ///
    /// If `sigma` is negative or no number.
    pub fn log_normal(median: Duration, sigma: f64) -> Self {
        assert!(
            sigma >= 0.0 && sigma.is_finite(),
            "a sigma of {sigma}: it is at least 0, and 0.5 is usual"
        );
        Self(Distribution::LogNormal { median: nanos(median) as f64, sigma })
    }

    /// The Pareto distribution, the heaviest tail: no packet takes less than `minimum`, and a
    /// latency `n` times as long is exceeded by one packet in `n` to the power of `shape`. At a
    /// shape of 2 or less the variance is infinite, at 1 or less so is the mean; a day is the most
    /// that is drawn.
    ///
    /// # Panics
    ///
    /// If `shape` is not above 0.
    pub fn pareto(minimum: Duration, shape: f64) -> Self {
        assert!(
            shape > 0.0 && shape.is_finite(),
            "a shape of {shape}: it is above 0, and 2 to 4 is usual"
        );
        Self(Distribution::Pareto { minimum: nanos(minimum) as f64, exponent: -1.0 / shape })
    }

    /// The latency, if it is always the same.
    pub(super) fn as_fixed(&self) -> Option<u64> {
        match self.0 {
            Distribution::Fixed(latency) => Some(latency),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn sample(&self, rng: &mut Rng) -> u64 {
        match self.0 {
            Distribution::Fixed(latency) => latency,
            Distribution::Uniform(least, span) => least + rng.u64(0..=span),
            Distribution::Normal { mean, deviation } => whole(mean + deviation * normal(rng)),
            Distribution::LogNormal { median, sigma } => whole(median * exp(sigma * normal(rng))),
            Distribution::Pareto { minimum, exponent } => {
                whole(minimum * exp(exponent * ln(1.0 - rng.f64())))
            }
        }
    }
}

impl From<Duration> for Latency {
    fn from(latency: Duration) -> Self {
        Self::fixed(latency)
    }
}

/// Nanoseconds of a draw: never negative, never longer than the longest.
fn whole(ns: f64) -> u64 {
    // A cast saturates, and makes 0 of what is no number.
    (ns as u64).min(LONGEST_NS)
}

/// A draw from the standard normal distribution (Marsaglia's polar method).
fn normal(rng: &mut Rng) -> f64 {
    loop {
        let (x, y) = (2.0 * rng.f64() - 1.0, 2.0 * rng.f64() - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * (-2.0 * ln(square) / square).sqrt();
        }
    }
}

/// The natural logarithm of a normal number above 0.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52 & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        (mantissa, exponent) = (mantissa / 2.0, exponent + 1);
    }
    // ln m = 2 artanh z = 2 (z + z^3/3 + z^5/5 ...), z = (m - 1) / (m + 1), at most 0.172.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let mut sum = 0.0;
    for n in (1..=10).rev() {
        sum = sum * square + RECIPROCALS[2 * n - 1];
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * z * sum
}

/// The exponential function.
fn exp(x: f64) -> f64 {
    // Beyond this the result is 0, or longer than any latency.
    let x = x.clamp(-700.0, 700.0);
    let doublings = (x * std::f64::consts::LOG2_E).round();
    // At most ln 2 / 2: the series is short.
    let rest = x - doublings * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for n in (1..=13).rev() {
        sum = 1.0 + sum * rest * RECIPROCALS[n];
    }
    sum * f64::from_bits(((doublings as i64 + 1023) as u64) << 52)
}

/// 1/n at n: a division costs as much as ten multiplications.
const RECIPROCALS: [f64; 20] = {
    let mut reciprocals = [0.0; 20];
    let mut n = 1;
    while n < 20 {
        reciprocals[n] = 1.0 / n as f64;
        n += 1;
    }
    reciprocals
};

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sorted(latency: &Latency) -> Vec<u64> {
        let mut rng = Rng::with_seed(11);
        let mut drawn: Vec<_> = (0..100_000).map(|_| latency.sample(&mut rng)).collect();
        drawn.sort_unstable();
        drawn
    }

    #[track_caller]
    fn near(value: f64, expected: f64, share: f64) {
        assert!((value / expected - 1.0).abs() < share, "{value} is not near {expected}");
    }

    fn mean(drawn: &[u64]) -> f64 {
        drawn.iter().sum::<u64>() as f64 / drawn.len() as f64
    }

    #[test]
    fn logarithm_and_exponential_are_those_of_the_system_but_for_the_last_bits() {
        for x in [f64::MIN_POSITIVE, 1e-16, 0.1, 0.5, 0.999_999, 1.0, 1.5, 2.0, 7e10] {
            assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0), "ln {x}");
        }
        for x in [-690.0, -1.0, -1e-9, 0.0, 0.3, 1.0, 36.0, 690.0] {
            near(exp(x), f64::exp(x), 1e-12);
        }
    }

    #[test]
    fn a_fixed_latency_is_fixed_and_a_uniform_one_keeps_its_bounds() {
        assert_eq!(Latency::from(MS).sample(&mut Rng::with_seed(1)), 1_000_000);
        let drawn = sorted(&Latency::uniform(MS, 3 * MS));
        assert!(drawn[0] >= 1_000_000 && drawn[99_999] <= 3_000_000);
        near(mean(&drawn), 2e6, 0.01);
        near(drawn[25_000] as f64, 1.5e6, 0.01);
    }

    #[test]
    fn a_latency_without_a_tail_may_be_longer_than_a_day() {
        let (week, mut rng) = (Duration::from_secs(7 * 86_400), Rng::with_seed(1));
        assert_eq!(Latency::fixed(week).sample(&mut rng), 604_800_000_000_000);
        assert_eq!(Latency::uniform(week, week).sample(&mut rng), 604_800_000_000_000);
        assert_eq!(Latency::fixed(Duration::MAX).sample(&mut rng), u64::MAX);
    }

    #[test]
    fn the_normal_distribution_has_its_mean_and_deviation_and_is_never_negative() {
        let drawn = sorted(&Latency::normal(10 * MS, 2 * MS));
        near(mean(&drawn), 1e7, 0.01);
        near(drawn[84_134] as f64, 1.2e7, 0.01);
        near(drawn[2_275] as f64, 0.6e7, 0.02);
        let cut = sorted(&Latency::normal(MS, 10 * MS));
        assert_eq!(cut[0], 0);
        assert!(cut[99_999] < 100_000_000);
    }

    #[test]
    fn the_log_normal_distribution_has_its_median_and_its_tail() {
        let drawn = sorted(&Latency::log_normal(10 * MS, 1.0));
        near(drawn[50_000] as f64, 1e7, 0.02);
        near(drawn[99_000] as f64, 1e7 * 2.326_f64.exp(), 0.05);
    }

    #[test]
    fn the_pareto_distribution_has_its_minimum_its_tail_and_an_end() {
        let drawn = sorted(&Latency::pareto(10 * MS, 2.0));
        assert!(drawn[0] >= 10_000_000);
        near(drawn[75_000] as f64, 2e7, 0.02);
        near(drawn[99_000] as f64, 1e8, 0.05);
        let endless = sorted(&Latency::pareto(10 * MS, 0.1));
        assert_eq!(endless[99_999], LONGEST_NS);
    }

    #[test]
    fn draws_are_the_same_to_the_nanosecond_in_every_build_and_on_every_system() {
        let sum = |latency: Latency| {
            let mut rng = Rng::with_seed(1);
            (0..1_000).map(|_| latency.sample(&mut rng)).sum::<u64>()
        };
        let sums = [
            sum(Latency::uniform(MS, 3 * MS)),
            sum(Latency::normal(10 * MS, 2 * MS)),
            sum(Latency::log_normal(10 * MS, 1.0)),
            sum(Latency::pareto(10 * MS, 2.0)),
        ];
        assert_eq!(sums, [1_984_739_117, 9_924_133_534, 16_305_984_603, 18_431_329_223]);
    }

    #[test]
    #[should_panic(expected = "the lesser comes first")]
    fn a_uniform_latency_the_wrong_way_round_is_refused() {
        let _ = Latency::uniform(2 * MS, MS);
    }
}
