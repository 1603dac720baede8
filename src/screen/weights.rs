//! The weights of a screen: how a text is scored, and how they are kept.
//!
//! Takes what training found, or bytes; gives scores. The score of a text is a sum over its distinct n-grams, for each
//! kind divided by the length of the kind's vector of inverse document frequencies, then a logistic curve. All sums are of
//! integers, so that a score has the same bits everywhere the same weights are. Knows no examples.

use super::ScreenError;
use super::features::{Kind, SLOT_BITS, SLOTS, Seen, visit};

const MAGIC: &[u8; 8] = b"sg-scrn\0";
const VERSION: u32 = 1;
/// Magic, version, slot bits, then the numbers of [`Numbers`].
const HEADER: usize = 8 + 4 + 4 + NUMBERS * 8;
const NUMBERS: usize = 6;
const CHECKSUM: usize = 32;
/// Bytes of a screen: a header, a weight and a frequency for each slot, and a checksum.
const BYTES: usize = HEADER + 2 * SLOTS + CHECKSUM;

/// What the codes of a table mean, and what becomes of a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Numbers {
    /// The size of the heaviest weight.
    pub heaviest: f64,
    /// The inverse document frequency of what was seen least, above that of what is in every text, which is 1.
    pub rarest: f64,
    /// Added to the sum.
    pub bias: f64,
    /// Of the logistic curve; above 0.
    pub slope: f64,
    /// Of the logistic curve.
    pub offset: f64,
    /// Distinct texts that the weights were made from.
    pub trained_on: f64,
}

impl Numbers {
    fn all(&self) -> [f64; NUMBERS] {
        [
            self.heaviest,
            self.rarest,
            self.bias,
            self.slope,
            self.offset,
            self.trained_on,
        ]
    }

    fn check(&self) -> Result<(), ScreenError> {
        if self
            .all()
            .iter()
            .any(|number| !number.is_finite() || number.abs() > 1e12)
        {
            return Err(ScreenError::Damaged("a number is not finite"));
        }
        if self.heaviest < 0.0 || self.rarest < 0.0 || self.slope <= 0.0 || self.trained_on < 0.0 {
            return Err(ScreenError::Damaged("a number is below its least value"));
        }
        Ok(())
    }
}

/// One byte for an inverse document frequency: 0 for what no text had, else 1 to 255.
pub(super) fn frequency_code(frequency: f64, rarest: f64) -> u8 {
    let share = if rarest > 0.0 {
        (frequency - 1.0) / rarest
    } else {
        0.0
    };
    1 + (share.clamp(0.0, 1.0) * 254.0).round() as u8
}

/// The inverse document frequency that a code stands for; 0 for 0.
pub(super) fn frequency(code: u8, rarest: f64) -> f64 {
    match code {
        0 => 0.0,
        code => 1.0 + rarest * f64::from(code - 1) / 254.0,
    }
}

/// One byte for a weight: small ones are told apart better than large ones.
fn weight_code(weight: f64, heaviest: f64) -> i8 {
    if heaviest == 0.0 {
        return 0;
    }
    let share = (weight.abs() / heaviest).min(1.0).sqrt();
    ((share * 127.0).round() * weight.signum()) as i8
}

/// The weight that a code stands for, in units of the heaviest / 32767.
fn weight(code: i8) -> i16 {
    let share = f64::from(code) / 127.0;
    (share * share.abs() * 32767.0).round() as i16
}

/// A trained table, immutable.
pub(super) struct Weights {
    /// Low half: the weight, signed. High half: the square of the inverse document frequency, its largest being 65535.
    table: Box<[u32]>,
    numbers: Numbers,
    /// The unit of a weight over the square root of the unit of the squares.
    unit: f64,
}

impl Weights {
    /// A table of these weights and [`frequency_code`]s, one for each slot.
    pub(super) fn of(
        weights: &[f64],
        codes: &[u8],
        numbers: Numbers,
    ) -> Result<Vec<u8>, ScreenError> {
        assert!(
            weights.len() == SLOTS && codes.len() == SLOTS,
            "bug: a weight and a code for each slot"
        );
        numbers.check()?;
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&SLOT_BITS.to_le_bytes());
        for number in numbers.all() {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (weight, code) in weights.iter().zip(codes) {
            let weight = if *code == 0 { 0.0 } else { *weight };
            bytes.extend_from_slice(&weight_code(weight, numbers.heaviest).to_le_bytes());
        }
        bytes.extend_from_slice(codes);
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        Ok(bytes)
    }

    /// Reads what [`Weights::of`] wrote.
    ///
    /// # Errors
    /// [`ScreenError::Damaged`] and [`ScreenError::Version`]: every byte is covered by the checksum.
    pub(super) fn read(bytes: &[u8]) -> Result<Weights, ScreenError> {
        if bytes.get(..8) != Some(MAGIC.as_slice()) {
            return Err(ScreenError::Damaged("it does not begin as a screen does"));
        }
        let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        let version = number(8).map(u32::from_le_bytes);
        match version {
            Some(VERSION) => {}
            Some(found) => {
                return Err(ScreenError::Version {
                    found,
                    known: VERSION,
                });
            }
            None => return Err(ScreenError::Damaged("its length")),
        }
        if bytes.len() != BYTES {
            return Err(ScreenError::Damaged("its length"));
        }
        let (body, checksum) = bytes.split_at(BYTES - CHECKSUM);
        if blake3::hash(body).as_bytes() != checksum {
            return Err(ScreenError::Damaged("its checksum"));
        }
        if number(12).map(u32::from_le_bytes) != Some(SLOT_BITS) {
            return Err(ScreenError::Damaged("the size of its table"));
        }
        let numbers = read_numbers(&body[16..HEADER]);
        numbers.check()?;
        let (weights, codes) = body[HEADER..].split_at(SLOTS);
        Weights::expand(weights, codes, numbers)
    }

    fn expand(weights: &[u8], codes: &[u8], numbers: Numbers) -> Result<Weights, ScreenError> {
        let largest = (1.0 + numbers.rarest).powi(2);
        let squares: Vec<u32> = (0..=255)
            .map(|code| {
                let square = frequency(code, numbers.rarest).powi(2);
                (square / largest * 65535.0).round() as u32
            })
            .collect();
        let mut table = Vec::with_capacity(SLOTS);
        for (code, frequency) in weights.iter().zip(codes) {
            let code = i8::from_le_bytes([*code]);
            if code == i8::MIN || (code != 0 && *frequency == 0) {
                return Err(ScreenError::Damaged("a weight that training never gives"));
            }
            let low = u32::from(weight(code) as u16);
            table.push(squares[usize::from(*frequency)] << 16 | low);
        }
        Ok(Weights {
            table: table.into_boxed_slice(),
            numbers,
            unit: numbers.heaviest / 32767.0 * (65535.0 / largest).sqrt(),
        })
    }

    /// How many distinct texts training had.
    pub(super) fn trained_on(&self) -> u64 {
        self.numbers.trained_on as u64
    }

    /// The linear score of a text: above 0 where training would rather say that it violates, before calibration.
    pub(super) fn linear(&self, text: &str) -> f64 {
        let table: &[u32; SLOTS] = (&*self.table)
            .try_into()
            .expect("bug: a table has all its slots");
        let mut seen = Seen::new();
        let (mut characters, mut words) = (Sum::default(), Sum::default());
        visit(text, |kind, slot| {
            let first = seen.first(slot);
            let entry = table[slot % SLOTS];
            match kind {
                Kind::Characters => characters.add(entry, first),
                Kind::Words => words.add(entry, first),
            }
        });
        self.numbers.bias + self.unit * (characters.normalised() + words.normalised())
    }

    /// P(violates) for a linear score: between 0 and 1, and never less for a higher score.
    pub(super) fn probability(&self, linear: f64) -> f64 {
        let logit = self.numbers.slope * linear + self.numbers.offset;
        1.0 / (1.0 + (-logit).exp())
    }
}

fn read_numbers(bytes: &[u8]) -> Numbers {
    let mut numbers = [0.0; NUMBERS];
    for (number, eight) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = f64::from_le_bytes(eight.try_into().expect("bug: eight bytes"));
    }
    let [heaviest, rarest, bias, slope, offset, trained_on] = numbers;
    Numbers {
        heaviest,
        rarest,
        bias,
        slope,
        offset,
        trained_on,
    }
}

/// Weights and squared frequencies of distinct n-grams.
#[derive(Default)]
struct Sum {
    weights: i64,
    squares: u64,
}

impl Sum {
    /// Adds an entry `first` times, which is 0 or 1.
    #[inline(always)]
    fn add(&mut self, entry: u32, first: u64) {
        let mask = first.wrapping_neg();
        self.weights += i64::from(entry as u16 as i16) & mask as i64;
        self.squares += u64::from(entry >> 16) & mask;
    }

    fn normalised(&self) -> f64 {
        match self.squares {
            0 => 0.0,
            squares => self.weights as f64 / (squares as f64).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Numbers {
        Numbers {
            heaviest: 2.0,
            rarest: 4.0,
            bias: -0.5,
            slope: 1.5,
            offset: 0.25,
            trained_on: 3.0,
        }
    }

    /// Every n-gram of `text` has this weight and the least frequency.
    fn bytes(text: &str, weight: f64) -> Vec<u8> {
        let (mut weights, mut codes) = (vec![0.0; SLOTS], vec![0; SLOTS]);
        visit(text, |_, slot| {
            weights[slot] = weight;
            codes[slot] = frequency_code(5.0, 4.0);
        });
        Weights::of(&weights, &codes, numbers()).unwrap()
    }

    #[test]
    fn a_score_is_the_normalised_sum() {
        let weights = Weights::read(&bytes("ab", 2.0)).unwrap();
        // " ab ": 3 of two, 2 of three, 1 of four; one word and one pair.
        let expected =
            -0.5 + 2.0 * 6.0 / (6.0f64 * 25.0).sqrt() + 2.0 * 2.0 / (2.0f64 * 25.0).sqrt();
        for (text, expected) in [
            ("ab", expected),
            ("AB ", expected),
            ("", -0.5),
            ("zq", -0.5),
        ] {
            assert!((weights.linear(text) - expected).abs() < 1e-6, "{text:?}");
        }
        assert!((weights.probability(-0.5) - 1.0 / (1.0 + 0.5f64.exp())).abs() < 1e-12);
        for logit in [f64::MAX, f64::MIN, 1e3, -1e3, 0.0] {
            assert!((0.0..=1.0).contains(&weights.probability(logit)));
        }
    }

    #[test]
    fn codes_keep_weights_and_frequencies() {
        for share in [-1.0, -0.3, -0.01, 0.0, 0.001, 0.2, 0.999, 1.0] {
            let kept = f64::from(weight(weight_code(share * 7.0, 7.0))) / 32767.0;
            assert!(
                (kept - share).abs() <= 0.008 * share.abs().sqrt() + 2e-5,
                "{share} {kept}"
            );
        }
        assert_eq!(frequency(0, 9.0), 0.0);
        for value in [1.0, 2.5, 7.0, 10.0] {
            assert!((frequency(frequency_code(value, 9.0), 9.0) - value).abs() < 0.02);
        }
        assert_eq!(frequency(frequency_code(1.0, 0.0), 0.0), 1.0);
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let good = bytes("some words of a text", 1.0);
        assert!(Weights::read(&good).is_ok());
        for length in [0, 7, 8, 12, HEADER, BYTES - 1] {
            assert!(Weights::read(&good[..length]).is_err(), "{length}");
        }
        assert!(Weights::read(&[good.clone(), vec![0]].concat()).is_err());
        let mut state = 7u64;
        for round in 0..400 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = match round {
                0..150 => round,
                _ => (state >> 33) as usize % good.len(),
            };
            let mut bad = good.clone();
            bad[at] ^= 1 << (state >> 60 & 7);
            assert!(Weights::read(&bad).is_err(), "byte {at}");
        }
    }

    /// A checksum can be made by whoever wrote the bytes: what they say is checked all the same.
    #[test]
    fn bytes_with_a_right_checksum_are_checked_too() {
        let good = bytes("some words of a text", 1.0);
        let mend = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good[..BYTES - CHECKSUM].to_vec();
            change(&mut bytes);
            bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
            Weights::read(&bytes).map(|_| ())
        };
        assert_eq!(mend(&|_| {}), Ok(()));
        let number = |at: usize, value: f64| {
            move |bytes: &mut Vec<u8>| {
                bytes[16 + at * 8..24 + at * 8].copy_from_slice(&value.to_le_bytes())
            }
        };
        for at in 0..NUMBERS {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
                assert!(mend(&number(at, value)).is_err(), "{at} {value}");
            }
        }
        for (at, value) in [(0, -1.0), (1, -1.0), (3, 0.0), (3, -1.0), (5, -1.0)] {
            assert!(mend(&number(at, value)).is_err(), "{at} {value}");
        }
        assert!(mend(&|bytes| bytes[12] = 18).is_err());
        assert!(mend(&|bytes| bytes[HEADER] = 0x80).is_err());
        assert!(mend(&|bytes| bytes[HEADER + SLOTS..].fill(0)).is_err());
        assert_eq!(
            mend(&|bytes| bytes[8] = 9),
            Err(ScreenError::Version {
                found: 9,
                known: VERSION
            })
        );
    }
}
