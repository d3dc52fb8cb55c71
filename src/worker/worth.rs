//! Whether to try what costs a moment and may be in vain. What was in vain four
//! times in a row is tried ever less often: once in 65 times at last, until it
//! is worth it again.

/// So often in vain, one after the other, until it is left out.
const IN_VAIN: u32 = 4;

/// Behind the next one in vain it is left out so often at most: once, then twice
/// as often each time.
const MOST_LEFT_OUT: u32 = 64;

/// See the module.
#[derive(Default)]
pub struct Worth {
    /// In vain since the last that was not.
    in_vain: u32,
    /// So often it is left out, from now on.
    leaves_out: u32,
}

impl Worth {
    /// Whether to try it this time; `was_worth_it` is told how it ended, if
    /// it was.
    pub fn tries(&mut self) -> bool {
        if self.leaves_out == 0 {
            return true;
        }
        self.leaves_out -= 1;
        false
    }

    /// Whether it was worth it.
    pub fn was_worth_it(&mut self, yes: bool) {
        self.in_vain = if yes {
            0
        } else {
            self.in_vain.saturating_add(1)
        };
        self.leaves_out = match self.in_vain.checked_sub(IN_VAIN) {
            None => 0,
            Some(more) => 1u32
                .checked_shl(more)
                .map_or(MOST_LEFT_OUT, |n| n.min(MOST_LEFT_OUT)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many times, how often it is tried.
    fn tries(worth: &mut Worth, of: u32, yes: bool) -> u32 {
        let mut tried = 0;
        for _ in 0..of {
            if worth.tries() {
                worth.was_worth_it(yes);
                tried += 1;
            }
        }
        tried
    }

    #[test]
    fn what_is_worth_it_is_tried_and_what_is_in_vain_is_left_out() {
        let mut worth = Worth::default();
        assert_eq!(tries(&mut worth, 100, true), 100);
        // three that cost nothing more, then 1, 2, 4 ... 64 are left out behind each
        assert_eq!(tries(&mut worth, 3 + 7 + 127, false), 10);
        assert_eq!(tries(&mut worth, 6500, false), 100);
        assert_eq!(tries(&mut worth, 65, true), 65);
        for _ in 0..10 {
            assert_eq!(tries(&mut worth, 3, false), 3);
            assert_eq!(
                tries(&mut worth, 1, true),
                1,
                "now and then in vain is no matter"
            );
        }
    }
}
