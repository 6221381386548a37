//! Which packets are lost: each by chance, or in bursts.

use fastrand::Rng;

/// Something that happens with a given probability: the chance out of 2^64, so that asking costs
/// one random number and a comparison, and none where the answer is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chance {
    Never,
    Below(u64),
    Always,
}

impl Chance {
    /// # Panics
    ///
    /// If the probability is not within 0 to 1.
    pub(super) fn of(probability: f64, what: &str) -> Self {
        assert!(
            (0.0..=1.0).contains(&probability),
            "a {what} of {probability}: it is a probability, 0 to 1"
        );
        if probability == 0.0 {
            Self::Never
        } else if probability == 1.0 {
            Self::Always
        } else {
            Self::Below((probability * 2f64.powi(64)) as u64)
        }
    }

    #[inline]
    pub(super) fn happens(self, rng: &mut Rng) -> bool {
        match self {
            Self::Never => false,
            Self::Below(bound) => rng.u64(..) < bound,
            Self::Always => true,
        }
    }
}

/// Which packets a link loses.
///
/// A number will do wherever one is wanted: the probability with which each packet is lost,
/// whatever happened to those before.
///
/// ```
/// use strand_reactor::sim::{GilbertElliott, Link, Loss};
///
/// let independent = Link::new().loss(0.3);
/// // As many are lost, but 10 in a row on average.
/// let bursts = Loss::bursts(0.3, 10.0);
/// assert!((bursts.mean() - 0.3).abs() < 1e-9);
/// assert_ne!(Link::new().loss(bursts), independent);
/// # let _ = GilbertElliott { to_bad: 0.0, to_good: 1.0, loss_in_good: 0.0, loss_in_bad: 1.0 };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Loss(pub(super) Model);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Model {
    Independent(Chance, f64),
    GilbertElliott(GilbertElliott),
}

/// The parameters of the loss model of Gilbert and Elliott: a link is in a good or in a bad state,
/// and loses packets with another probability in each. All are probabilities, 0 to 1.
///
/// Before each packet the state may change; a link begins in the good one. Each direction between
/// two hosts has a state of its own.
///
/// ```
/// use strand_reactor::sim::{GilbertElliott, Loss};
///
/// // Good for 99 packets on average, then bad for 10, in which half are lost.
/// let radio = GilbertElliott { to_bad: 1.0 / 99.0, to_good: 0.1, loss_in_good: 0.0, loss_in_bad: 0.5 };
/// let loss = Loss::from(radio);
/// assert!((loss.mean() - 0.5 * 10.0 / 109.0).abs() < 1e-9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// With what probability a good link turns bad, asked before each packet.
    pub to_bad: f64,
    /// With what probability a bad link turns good, asked before each packet.
    pub to_good: f64,
    /// With what probability a packet is lost while the link is good.
    pub loss_in_good: f64,
    /// With what probability a packet is lost while the link is bad.
    pub loss_in_bad: f64,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Self = Self(Model::Independent(Chance::Never, 0.0));

    /// Each packet is lost with this probability, whatever happened to those before.
    ///
    /// # Panics
    ///
    /// If the probability is not within 0 to 1.
    pub fn independent(probability: f64) -> Self {
        Self(Model::Independent(Chance::of(probability, "loss"), probability))
    }

    /// In the long run this share of the packets is lost, in bursts of this mean length, without
    /// exception within a burst (the model of Gilbert).
    ///
    /// # Panics
    ///
    /// If the share is not within 0 to 1, or 1 itself, or if the length is less than 1. If bursts
    /// so short cannot make up the share: they come at least one packet apart, so that it is at
    /// most `length / (length + 1)`.
    pub fn bursts(share: f64, length: f64) -> Self {
        assert!((0.0..1.0).contains(&share), "a loss of {share} in bursts: it is a share below 1");
        assert!(length >= 1.0, "bursts of {length} packets: they are of at least 1");
        let to_good = 1.0 / length;
        let to_bad = to_good * share / (1.0 - share);
        assert!(
            to_bad <= 1.0,
            "a loss of {share} in bursts of {length}: longer bursts are needed for so much"
        );
        Self::from(GilbertElliott { to_bad, to_good, loss_in_good: 0.0, loss_in_bad: 1.0 })
    }

    /// The share of packets lost in the long run.
    pub fn mean(&self) -> f64 {
        match &self.0 {
            Model::Independent(_, probability) => *probability,
            Model::GilbertElliott(model) => model.mean(),
        }
    }

    /// Whether what became of earlier packets matters.
    pub(super) fn has_memory(&self) -> bool {
        matches!(self.0, Model::GilbertElliott(_))
    }

    /// Decides over a packet; `bad` is the state of the link in this direction.
    #[inline]
    pub(super) fn loses(&self, bad: &mut bool, rng: &mut Rng) -> bool {
        match &self.0 {
            Model::Independent(chance, _) => chance.happens(rng),
            Model::GilbertElliott(model) => {
                let change = if *bad { model.to_good } else { model.to_bad };
                // `f64` is below 1: a probability of 1 always happens, one of 0 never.
                if rng.f64() < change {
                    *bad = !*bad;
                }
                rng.f64() < if *bad { model.loss_in_bad } else { model.loss_in_good }
            }
        }
    }
}

impl GilbertElliott {
    fn mean(&self) -> f64 {
        if self.to_bad == 0.0 {
            return self.loss_in_good;
        }
        let bad = self.to_bad / (self.to_bad + self.to_good);
        bad * self.loss_in_bad + (1.0 - bad) * self.loss_in_good
    }
}

impl From<f64> for Loss {
    /// [`Loss::independent`], which panics at what is no probability.
    fn from(probability: f64) -> Self {
        Self::independent(probability)
    }
}

impl From<GilbertElliott> for Loss {
    /// Panics if one of the four is no probability.
    fn from(model: GilbertElliott) -> Self {
        let GilbertElliott { to_bad, to_good, loss_in_good, loss_in_bad } = model;
        for value in [to_bad, to_good, loss_in_good, loss_in_bad] {
            Chance::of(value, "parameter of the loss model");
        }
        Self(Model::GilbertElliott(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: usize = 200_000;

    fn lost(loss: &Loss) -> Vec<bool> {
        let (mut rng, mut bad) = (Rng::with_seed(7), false);
        (0..PACKETS).map(|_| loss.loses(&mut bad, &mut rng)).collect()
    }

    fn share(lost: &[bool]) -> f64 {
        lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64
    }

    fn mean_burst(lost: &[bool]) -> f64 {
        let begun = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        lost.iter().filter(|lost| **lost).count() as f64 / begun as f64
    }

    #[test]
    fn independent_loss_has_its_share_and_bursts_by_chance_alone() {
        let lost = lost(&Loss::independent(0.3));
        assert!((share(&lost) - 0.3).abs() < 0.005);
        assert!((mean_burst(&lost) - 1.0 / 0.7).abs() < 0.02);
    }

    #[test]
    fn bursts_have_their_share_and_their_length() {
        let loss = Loss::bursts(0.2, 8.0);
        let lost = lost(&loss);
        assert!((loss.mean() - 0.2).abs() < 1e-12);
        assert!((share(&lost) - 0.2).abs() < 0.01, "{}", share(&lost));
        assert!((mean_burst(&lost) - 8.0).abs() < 0.3, "{}", mean_burst(&lost));
    }

    #[test]
    fn both_states_of_the_model_lose() {
        let model =
            GilbertElliott { to_bad: 0.02, to_good: 0.2, loss_in_good: 0.01, loss_in_bad: 0.6 };
        let loss = Loss::from(model);
        assert!((share(&lost(&loss)) - loss.mean()).abs() < 0.005);
        let stuck = GilbertElliott { to_bad: 0.0, to_good: 0.0, ..model };
        assert!((share(&lost(&stuck.into())) - 0.01).abs() < 0.002);
        assert!((Loss::from(stuck).mean() - 0.01).abs() < 1e-12);
    }

    #[test]
    fn certainty_asks_no_dice() {
        let mut rng = Rng::with_seed(1);
        assert!(Chance::of(1.0, "loss").happens(&mut rng));
        assert!(!Chance::of(0.0, "loss").happens(&mut rng));
        assert_eq!(rng.u64(..), Rng::with_seed(1).u64(..));
    }

    #[test]
    #[should_panic(expected = "a loss of 30: it is a probability, 0 to 1")]
    fn percents_are_refused() {
        let _ = Loss::from(30.0);
    }

    #[test]
    #[should_panic(expected = "longer bursts are needed")]
    fn too_short_bursts_are_refused() {
        let _ = Loss::bursts(0.9, 2.0);
    }
}
