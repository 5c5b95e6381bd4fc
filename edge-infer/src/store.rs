//! Where model images are kept: two slots, so that an update never overwrites the model in use.
use crate::Fault;

/// One of the two places for a model image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Slot {
    /// The factory's image.
    A,
    /// The update's image: preferred when it is valid.
    B,
}

/// Read access to the two slots.
pub trait ModelStore {
    /// The bytes of a slot, whatever they are; `None` when the board has no such slot.
    fn slot(&self, slot: Slot) -> Option<&[u8]>;
}

/// The first valid image, the update's before the factory's. `refused` hears of every slot that was passed over.
pub fn newest_valid<'s, S: ModelStore + ?Sized, M>(
    store: &'s S,
    mut parse: impl FnMut(&'s [u8]) -> Result<M, Fault>,
    mut refused: impl FnMut(Slot, Fault),
) -> Result<(Slot, M), Fault> {
    for slot in [Slot::B, Slot::A] {
        match store.slot(slot).map(&mut parse) {
            Some(Ok(model)) => return Ok((slot, model)),
            Some(Err(fault)) => refused(slot, fault),
            None => {}
        }
    }
    Err(Fault::NoModel)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    struct Slots(Option<&'static [u8]>, Option<&'static [u8]>);
    impl ModelStore for Slots {
        fn slot(&self, slot: Slot) -> Option<&[u8]> {
            if slot == Slot::A { self.0 } else { self.1 }
        }
    }

    type Chosen = Result<(Slot, u8), Fault>;

    fn load(store: &Slots) -> (Chosen, Vec<(Slot, Fault)>) {
        let mut refused = Vec::new();
        let parse = |bytes: &[u8]| bytes.first().copied().ok_or(Fault::CutShort);
        let outcome = newest_valid(store, parse, |slot, fault| refused.push((slot, fault)));
        (outcome, refused)
    }

    #[test]
    fn a_valid_update_is_preferred() {
        assert_eq!(load(&Slots(Some(&[1]), Some(&[2]))), (Ok((Slot::B, 2)), Vec::new()));
    }

    #[test]
    fn a_bad_update_leaves_the_factory_image_running_and_is_reported() {
        assert_eq!(load(&Slots(Some(&[1]), Some(&[]))), (Ok((Slot::A, 1)), [(Slot::B, Fault::CutShort)].to_vec()));
    }

    #[test]
    fn without_any_valid_image_there_is_no_model() {
        let (outcome, refused) = load(&Slots(Some(&[]), None));
        assert_eq!((outcome, refused.len()), (Err(Fault::NoModel), 1));
    }
}
