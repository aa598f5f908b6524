//! A set of the two-byte codes of a list that a client may make as long as its ClientHello.
//!
//! **Promises.** The cost of a code does not depend on the number of codes. An ordinary list needs no memory of the heap;
//! a long one 8 KiB, however long it is.
//!
//! **Not here.** The lists (`client_hello.rs`, `rules.rs`).

/// Number of codes that are compared one by one. Clients offer 8 to 20 extensions, and fewer groups.
const FEW: usize = 32;

/// Number of words with a bit for each code.
const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;

/// A set of two-byte codes.
#[derive(Debug, Default)]
pub(super) struct CodeSet {
    /// A bit for the remainder of each code: most codes need no comparison.
    remainders: u64,
    few: [u16; FEW],
    count: usize,
    /// A bit for each code, once there are more than a few.
    many: Option<Box<[u64]>>,
}

impl CodeSet {
    /// Adds a code. Returns whether it is new.
    pub(super) fn insert(&mut self, code: u16) -> bool {
        if let Some(many) = &mut self.many {
            return set(many, code);
        }
        if self.is_of_few(code) {
            return false;
        }
        self.remainders |= place(code).1;
        if let Some(free) = self.few.get_mut(self.count) {
            *free = code;
            self.count += 1;
            return true;
        }
        let mut many = vec![0; WORDS].into_boxed_slice();
        for few in self.few {
            set(&mut many, few);
        }
        set(self.many.insert(many), code)
    }

    /// Returns whether a code is in the set.
    pub(super) fn contains(&self, code: u16) -> bool {
        match &self.many {
            Some(many) => {
                let (word, bit) = place(code);
                many[word] & bit != 0
            }
            None => self.is_of_few(code),
        }
    }

    fn is_of_few(&self, code: u16) -> bool {
        self.remainders & place(code).1 != 0 && self.few[..self.count].contains(&code)
    }
}

/// Sets the bit of a code. Returns whether it was clear.
fn set(many: &mut [u64], code: u16) -> bool {
    let (word, bit) = place(code);
    let is_new = many[word] & bit == 0;
    many[word] |= bit;
    is_new
}

/// Returns the word and the bit of a code.
const fn place(code: u16) -> (usize, u64) {
    (code as usize / u64::BITS as usize, 1 << (code as u32 % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_any_size_has_the_codes_that_were_added_once() {
        for size in [0, 1, FEW - 1, FEW, FEW + 1, 1000, 32_768] {
            let code = |n: usize| u16::try_from(2 * n).unwrap();
            let mut set = CodeSet::default();
            for n in 0..size {
                assert!(set.insert(code(n)), "{n} of {size} is new");
            }
            for n in 0..size {
                assert!(set.contains(code(n)) && !set.insert(code(n)), "{n} of {size} is there");
                assert!(!set.contains(code(n) + 1), "{n} of {size} has no neighbour");
            }
        }
    }
}
