//! M-of-N confirmation: a target is announced once it was seen in at least M of the last N frames.
//!
//! Detections are taken in the order of the list (raster order); each joins the nearest track not yet continued in this frame
//! whose last position is less than the gate away (of equally near ones the older), or begins a track. Distances are compared
//! as squares, in f32 without fused operations: the same decisions on host and sensor.
use crate::{Error, detect::Detection};

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Rule {
    /// M: frames with a detection that confirm.
    pub hits: u8,
    /// N: frames looked back on, this one included; at most 32.
    pub window: u8,
    /// Largest motion between two sightings, in px, exclusive.
    pub gate: f32,
}

/// A target followed over frames.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Track {
    /// Counts up from 0 for each confirmer; never reused before 2³² tracks.
    pub id: u32,
    /// The last detection of the target.
    pub last: Detection,
    /// Whether it was seen in this frame.
    pub seen: bool,
    /// Bit k: seen k frames ago.
    history: u32,
    confirmed: bool,
}

impl Track {
    /// Whether at least M of the last N frames showed it.
    pub fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// Frames of the window that showed it.
    pub fn hits(&self) -> u32 {
        self.history.count_ones()
    }
}

/// Follows up to `T` targets.
#[derive(Debug, Clone)]
pub struct Confirmer<const T: usize> {
    rule: Rule,
    tracks: heapless::Vec<Track, T>,
    next_id: u32,
}

impl<const T: usize> Confirmer<T> {
    /// A confirmer without tracks.
    ///
    /// # Errors
    /// [`Error::ConfirmationRule`] unless 1 ≤ hits ≤ window ≤ 32 and the gate is a positive number.
    pub fn new(rule: Rule) -> Result<Self, Error> {
        let sound = rule.hits >= 1 && rule.hits <= rule.window && rule.window <= 32 && rule.gate > 0.0;
        if !sound {
            return Err(Error::ConfirmationRule);
        }
        Ok(Self { rule, tracks: heapless::Vec::new(), next_id: 0 })
    }

    /// Takes the detections of the next frame. Returns how many found no free track and are forgotten: the capacity is
    /// then too small for the scene, or the threshold too low.
    pub fn update(&mut self, detections: &[Detection]) -> u32 {
        let window = u32::MAX >> (32 - u32::from(self.rule.window));
        for track in &mut self.tracks {
            track.history = (track.history << 1) & window;
            track.seen = false;
        }
        let mut dropped = 0;
        // Tracks that have left the window make room first.
        self.tracks.retain(|track| track.history != 0);
        for detection in detections {
            match self.nearest(detection) {
                Some(track) => {
                    track.last = *detection;
                    track.history |= 1;
                    track.seen = true;
                }
                None => {
                    let track = Track { id: self.next_id, last: *detection, seen: true, history: 1, confirmed: false };
                    match self.tracks.push(track) {
                        Ok(()) => self.next_id = self.next_id.wrapping_add(1),
                        Err(_) => dropped += 1,
                    }
                }
            }
        }
        for track in &mut self.tracks {
            track.confirmed = track.hits() >= u32::from(self.rule.hits);
        }
        dropped
    }

    /// All tracks, oldest first.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The confirmed tracks, oldest first.
    pub fn confirmed(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| track.confirmed)
    }

    /// Forgets everything, as after a cut or a slew of the sensor.
    pub fn reset(&mut self) {
        self.tracks.clear();
    }

    fn nearest(&mut self, detection: &Detection) -> Option<&mut Track> {
        let gate = self.rule.gate * self.rule.gate;
        let mut best: Option<(f32, &mut Track)> = None;
        for track in self.tracks.iter_mut().filter(|track| !track.seen) {
            let (dx, dy) = (track.last.x - detection.x, track.last.y - detection.y);
            let distance = dx * dx + dy * dy;
            if distance < gate && best.as_ref().is_none_or(|(nearest, _)| distance < *nearest) {
                best = Some((distance, track));
            }
        }
        best.map(|(_, track)| track)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, y: f32) -> Detection {
        let area = 1;
        Detection { x, y, area, left: 0, top: 0, right: 0, bottom: 0, first_x: 0, peak: 1.0, contrast: 0.1 }
    }

    fn confirmer<const T: usize>(hits: u8, window: u8) -> Confirmer<T> {
        Confirmer::new(Rule { hits, window, gate: 3.0 }).unwrap()
    }

    /// Feeds frames with (`x`) or without a detection at one place; says after which frames it is confirmed.
    fn confirmed_after(hits: u8, window: u8, frames: &str) -> String {
        let mut c = confirmer::<4>(hits, window);
        let seen = [at(5.0, 5.0)];
        frames
            .bytes()
            .map(|f| {
                c.update(if f == b'x' { &seen } else { &[] });
                if c.confirmed().count() == 1 { 'C' } else { '.' }
            })
            .collect()
    }

    extern crate std;
    use std::string::String;

    #[test]
    fn confirmation_needs_m_of_the_last_n_frames() {
        assert_eq!(confirmed_after(3, 5, "x.x.x..x"), "....C...");
        assert_eq!(confirmed_after(3, 5, "xxx...x"), "..CCC..");
        assert_eq!(confirmed_after(1, 1, "x.x"), "C.C");
        assert_eq!(confirmed_after(2, 2, "x.xx"), "...C");
        assert_eq!(confirmed_after(1, 32, "x................................"), "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC.");
    }

    #[test]
    fn a_motion_of_exactly_the_gate_is_another_target() {
        let mut c = confirmer::<4>(2, 3);
        c.update(&[at(0.0, 0.0)]);
        c.update(&[at(3.0, 0.0)]);
        assert_eq!((c.confirmed().count(), c.tracks().len()), (0, 2));
        c.reset();
        c.update(&[at(0.0, 0.0)]);
        c.update(&[at(2.5, 1.5)]);
        assert_eq!((c.confirmed().count(), c.tracks().len()), (1, 1));
    }

    #[test]
    fn the_gate_moves_with_the_target_and_the_identity_stays() {
        let mut c = confirmer::<4>(3, 3);
        for step in 0..10u8 {
            c.update(&[at(f32::from(step) * 2.0, 0.0)]);
        }
        let track = c.confirmed().next().unwrap();
        assert_eq!((track.id, track.last.x, track.hits()), (0, 18.0, 3));
    }

    #[test]
    fn two_detections_never_share_a_track() {
        let mut c = confirmer::<4>(2, 2);
        c.update(&[at(0.0, 0.0)]);
        c.update(&[at(1.0, 0.0), at(0.5, 0.0)]);
        assert_eq!((c.tracks().len(), c.confirmed().count()), (2, 1));
    }

    #[test]
    fn a_detection_joins_the_nearest_track() {
        let mut c = confirmer::<4>(2, 2);
        c.update(&[at(0.0, 0.0), at(4.0, 0.0)]);
        c.update(&[at(2.5, 0.0)]);
        assert_eq!(c.confirmed().next().unwrap().id, 1);
    }

    #[test]
    fn a_full_list_of_tracks_is_reported_and_frees_itself() {
        let mut c = confirmer::<2>(1, 1);
        assert_eq!(c.update(&[at(0.0, 0.0), at(10.0, 0.0), at(20.0, 0.0)]), 1);
        assert_eq!(c.update(&[at(30.0, 0.0), at(40.0, 0.0)]), 0, "the old tracks have left the window");
        assert_eq!(c.tracks()[0].id, 2);
    }

    #[test]
    fn an_impossible_rule_is_refused() {
        for (hits, window, gate) in [(0, 3, 1.0), (4, 3, 1.0), (1, 33, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, f32::NAN)]
        {
            assert_eq!(Confirmer::<1>::new(Rule { hits, window, gate }).err(), Some(Error::ConfirmationRule));
        }
    }
}
