//! A sorted set of serial numbers.
//!
//! **Promises.** A number takes 8, 16 or 20 bytes, by its length, without any overhead: a million numbers take
//! less memory than their file.
//!
//! **Not here.** The issuers of the numbers.

/// Serial numbers, as in the content of their DER INTEGER.
#[derive(Default)]
pub(super) struct Serials {
    of_8: Vec<[u8; 8]>,
    of_16: Vec<[u8; 16]>,
    of_20: Vec<[u8; 20]>,
    /// Longer numbers. RFC 5280 section 5.1.2.6 permits 20 bytes at most, but some CAs exceed that.
    longer: Vec<Box<[u8]>>,
    /// The largest possible number of numbers.
    expected: usize,
}

impl Serials {
    /// Makes a set for at most so many numbers. Memory is taken by the numbers that are added: a list that grew by
    /// doubling would be copied, and need half as much again.
    pub(super) fn with_room_for(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }

    /// Adds a number. Call [`Self::sort`] before the first [`Self::contains`].
    pub(super) fn push(&mut self, serial: &[u8]) {
        let serial = shortest(serial);
        match serial.len() {
            0..=8 => push(&mut self.of_8, extended(serial), self.expected),
            9..=16 => push(&mut self.of_16, extended(serial), self.expected),
            17..=20 => push(&mut self.of_20, extended(serial), self.expected),
            _ => self.longer.push(serial.into()),
        }
    }

    pub(super) fn sort(&mut self) {
        fn sort<T: Ord>(numbers: &mut Vec<T>) {
            numbers.sort_unstable();
            numbers.dedup();
            numbers.shrink_to_fit();
        }
        sort(&mut self.of_8);
        sort(&mut self.of_16);
        sort(&mut self.of_20);
        sort(&mut self.longer);
    }

    /// Returns the number of serial numbers.
    pub(super) const fn count(&self) -> usize {
        self.of_8.len() + self.of_16.len() + self.of_20.len() + self.longer.len()
    }

    /// Returns how many numbers both sets have. Both are sorted.
    pub(super) fn shared(&self, other: &Self) -> usize {
        shared(&self.of_8, &other.of_8)
            + shared(&self.of_16, &other.of_16)
            + shared(&self.of_20, &other.of_20)
            + shared(&self.longer, &other.longer)
    }

    pub(super) fn contains(&self, serial: &[u8]) -> bool {
        let serial = shortest(serial);
        match serial.len() {
            0..=8 => self.of_8.binary_search(&extended(serial)).is_ok(),
            9..=16 => self.of_16.binary_search(&extended(serial)).is_ok(),
            17..=20 => self.of_20.binary_search(&extended(serial)).is_ok(),
            _ => self.longer.binary_search_by(|known| (**known).cmp(serial)).is_ok(),
        }
    }
}

/// Adds an item to a list. The first one reserves room for `expected`.
fn push<T>(list: &mut Vec<T>, item: T, expected: usize) {
    if list.capacity() == 0 {
        list.reserve_exact(expected);
    }
    list.push(item);
}

/// Returns how many items two sorted lists share.
fn shared<T: Ord>(mut one: &[T], mut other: &[T]) -> usize {
    let mut shared = 0;
    while let ([a, rest_of_one @ ..], [b, rest_of_other @ ..]) = (one, other) {
        let order = a.cmp(b);
        shared += usize::from(order.is_eq());
        if order.is_le() {
            one = rest_of_one;
        }
        if order.is_ge() {
            other = rest_of_other;
        }
    }
    shared
}

/// Returns the number without leading bytes that only repeat its sign. DER forbids them; some CAs write them.
fn shortest(mut serial: &[u8]) -> &[u8] {
    while let [0, next, ..] = serial {
        if next & 0x80 != 0 {
            break;
        }
        serial = &serial[1..];
    }
    serial
}

/// Sign-extends the number in two's complement, so that 0x80 and 0x0080 stay different.
fn extended<const N: usize>(serial: &[u8]) -> [u8; N] {
    let negative = serial.first().is_some_and(|first| first & 0x80 != 0);
    let mut bytes = if negative { [0xff; N] } else { [0; N] };
    bytes[N - serial.len()..].copy_from_slice(serial);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_found_and_no_others() {
        let mut serials = Serials::default();
        let number = |length: usize, last: u8| {
            let mut number = vec![0x5a; length];
            number[length - 1] = last;
            number
        };
        for length in 1..30 {
            serials.push(&number(length, 7));
        }
        serials.sort();
        for length in 1..30 {
            assert!(serials.contains(&number(length, 7)), "{length} bytes");
            assert!(!serials.contains(&number(length, 8)), "{length} bytes");
        }
        assert!(!serials.contains(&number(30, 7)));
    }

    #[test]
    fn the_numbers_that_two_sets_share_are_counted() {
        let set = |numbers: &[&[u8]]| {
            let mut serials = Serials::default();
            numbers.iter().for_each(|number| serials.push(number));
            serials.sort();
            serials
        };
        let one = set(&[&[1], &[3], &[5], &[7; 16], &[8; 20], &[9; 30]]);
        let other = set(&[&[2], &[3], &[4], &[5], &[7; 16], &[8; 19], &[9; 30]]);
        assert_eq!((one.count(), other.count(), one.shared(&other)), (6, 7, 4));
        assert_eq!(one.shared(&set(&[])), 0);
    }

    #[test]
    fn leading_zeros_are_ignored_and_the_sign_is_not() {
        let mut serials = Serials::default();
        serials.push(&[0, 0, 0x80]);
        serials.sort();
        assert!(serials.contains(&[0, 0x80]));
        assert!(!serials.contains(&[0x80]));
        assert!(!serials.contains(&[0xff, 0x80]));
    }
}
