//! Which shares the checkpoints of a soup get.
//!
//! - **equal**: 1/n each; nothing is chosen.
//! - **greedy**: the best checkpoint by itself first; then the others, the better ones first, each of which stays if the
//!   equal average with it scores higher than without, until there are `most` of them.
//! - **sweep**: (1 − α)·(the best by itself) + α·(the equal average of all), the α of 0, 1/n, … 1 that scores highest.
//!
//! Scores are of a validation list, at the best threshold of its sweep within the limit of Fa. Of equal scores the earlier
//! candidate stays.

use anyhow::{Result, ensure};

/// How a soup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All alike.
    Equal,
    /// One after the other, as long as it gets better.
    Greedy,
    /// Between the best one and the average of all.
    Sweep,
}

/// Shares that were tried.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Candidate {
    /// One share for each checkpoint.
    pub shares: Vec<f64>,
    /// Its validation score.
    pub score: f64,
}

/// The shares, and how they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// One share for each checkpoint.
    pub shares: Vec<f64>,
    /// What was tried for them, in that order.
    pub tried: Vec<Candidate>,
}

impl Choice {
    fn try_out(&mut self, shares: Vec<f64>, score: &mut impl FnMut(&[f64]) -> Result<f64>) -> Result<bool> {
        let value = score(&shares)?;
        let better = self.tried.iter().all(|other| value > other.score);
        if better {
            self.shares.clone_from(&shares);
        }
        self.tried.push(Candidate { shares, score: value });
        Ok(better)
    }
}

/// Chooses among `count` checkpoints; `most` limits greedy, `steps` is the number of intervals of sweep.
pub fn choose(
    mode: Mode,
    count: usize,
    most: usize,
    steps: usize,
    mut score: impl FnMut(&[f64]) -> Result<f64>,
) -> Result<Choice> {
    ensure!(count >= 1 && most >= 1 && steps >= 1, "a soup of {count} checkpoints, at most {most}, in {steps} steps");
    if mode == Mode::Equal {
        return Ok(Choice { shares: vec![1.0 / count as f64; count], tried: Vec::new() });
    }
    let mut choice = Choice::default();
    for member in 0..count {
        choice.try_out(equal(&[member], count), &mut score)?;
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| choice.tried[b].score.total_cmp(&choice.tried[a].score));
    match mode {
        Mode::Greedy => {
            let mut kept = vec![order[0]];
            for &member in &order[1..] {
                if kept.len() == most {
                    break;
                }
                kept.push(member);
                if !choice.try_out(equal(&kept, count), &mut score)? {
                    kept.pop();
                }
            }
        }
        _ if count > 1 => {
            // α = 0 is the best one by itself, which has its score already.
            for step in 1..=steps {
                let alpha = step as f64 / steps as f64;
                let mut shares = vec![alpha / count as f64; count];
                shares[order[0]] += 1.0 - alpha;
                choice.try_out(shares, &mut score)?;
            }
        }
        _ => {}
    }
    Ok(choice)
}

fn equal(kept: &[usize], count: usize) -> Vec<f64> {
    (0..count).map(|member| if kept.contains(&member) { 1.0 / kept.len() as f64 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A score with its maximum 1 where the shares are `goal`.
    fn towards<'a>(goal: &'a [f64]) -> impl FnMut(&[f64]) -> Result<f64> + 'a {
        move |shares| Ok(1.0 - shares.iter().zip(goal).map(|(a, b)| (a - b).powi(2)).sum::<f64>())
    }

    #[test]
    fn equal_takes_all_alike_and_asks_nobody() {
        let choice = choose(Mode::Equal, 4, 1, 1, |_| anyhow::bail!("no validation images")).unwrap();
        assert_eq!((choice.shares, choice.tried), (vec![0.25; 4], vec![]));
    }

    #[test]
    fn greedy_keeps_what_helps_and_leaves_what_does_not() {
        // Alone: 2 is best, then 0, then 1; 2 with 0 is perfect, 1 spoils it.
        let choice = choose(Mode::Greedy, 3, 9, 1, towards(&[0.45, 0.0, 0.55])).unwrap();
        assert_eq!(choice.shares, [0.5, 0.0, 0.5]);
        let tried: Vec<_> = choice.tried.iter().map(|candidate| candidate.shares.clone()).collect();
        assert_eq!(tried[..3], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        assert_eq!(tried[3..], [[0.5, 0.0, 0.5], [1.0 / 3.0; 3]]);
        let alone = choose(Mode::Greedy, 3, 9, 1, towards(&[0.0, 0.0, 1.0])).unwrap();
        assert_eq!(alone.shares, [0.0, 0.0, 1.0], "no soup is better than the best checkpoint");
        let two = choose(Mode::Greedy, 3, 2, 1, towards(&[1.0 / 3.0; 3])).unwrap();
        assert_eq!(two.shares.iter().filter(|share| **share > 0.0).count(), 2);
    }

    #[test]
    fn sweep_stops_between_the_best_and_the_average() {
        // Best alone is 1; α = ½ of two gives (¼, ¾).
        let choice = choose(Mode::Sweep, 2, 1, 4, towards(&[0.25, 0.75])).unwrap();
        assert_eq!(choice.shares, [0.25, 0.75]);
        assert_eq!(choice.tried.len(), 2 + 4);
        assert_eq!(choice.tried[5].shares, [0.5, 0.5]);
        assert_eq!(choose(Mode::Sweep, 1, 1, 4, towards(&[1.0])).unwrap().shares, [1.0]);
    }

    #[test]
    fn the_score_can_fail() {
        assert!(choose(Mode::Greedy, 2, 2, 1, |_| anyhow::bail!("no mask")).is_err());
        assert!(choose(Mode::Greedy, 0, 2, 1, |_| Ok(0.0)).is_err());
    }
}
