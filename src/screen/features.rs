//! Hashed n-grams of a text: characters (2 to 5, within a word and its neighbouring spaces) and words (1 and 2).
//!
//! Takes a text, calls back with one slot of the weight table for every n-gram in the order of the text; the same slot
//! comes as often as it occurs. One pass, no allocation. Letters are lower-cased, full-width forms become ASCII, and
//! characters that print nothing are passed over, so that they hide nothing. Knows no weights.

/// Slots of a weight table, as a power of two.
pub(super) const SLOT_BITS: u32 = 17;

/// Slots of a weight table.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;

/// Longest n-gram of characters.
const CHARACTERS_MAX: usize = 5;

/// What an n-gram is made of. Each kind is normalised on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Characters,
    Words,
}

const SPACE: u32 = b' ' as u32;
const CHARACTERS_START: u64 = 0x243F_6A88_85A3_08D3;
const WORD_START: u64 = 0x1319_8A2E_0370_7344;
const NO_WORD: u64 = 0xA409_3822_299F_31D0;

/// The hash of an n-gram that is one element longer. Its upper bits are well mixed: [`slot`] takes those.
#[inline(always)]
fn longer(hash: u64, element: u64) -> u64 {
    (hash.rotate_left(23) ^ element).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

#[inline(always)]
fn slot(hash: u64) -> usize {
    (hash >> (64 - SLOT_BITS)) as usize
}

/// Calls `see` for every n-gram of the text.
#[inline(always)]
pub(super) fn visit(text: &str, mut see: impl FnMut(Kind, usize)) {
    let mut reader = Reader::new();
    for character in text.chars() {
        if character.is_ascii() {
            let byte = character as u8;
            let lower = byte.to_ascii_lowercase();
            let class = CLASSES[usize::from(byte & 127)];
            reader.take(u32::from(lower), class, &mut see);
        } else {
            reader.take_wide(character, &mut see);
        }
    }
    reader.finish(&mut see);
}

/// What a character does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    /// A part of a word.
    Word,
    /// A part of a run without spaces, and of no word.
    Mark,
}

const CLASSES: [Class; 128] = {
    let mut classes = [Class::Mark; 128];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric() || byte == b'\'' {
            classes[at] = Class::Word;
        } else if byte.is_ascii_whitespace() || byte == 0x0B {
            classes[at] = Class::Space;
        }
        at += 1;
    }
    classes
};

/// Characters that show as nothing: joiners, direction marks, variation selectors, soft hyphens, tags.
fn shows_nothing(character: char) -> bool {
    matches!(character,
        '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2064}' | '\u{FE00}'..='\u{FE0F}'
        | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

/// The n-grams that end where the text has been read to.
struct Reader {
    /// `ending[n]`: hash of the last `n` characters, where the run has that many.
    ending: [u64; CHARACTERS_MAX + 1],
    /// Characters of this run so far, at most [`CHARACTERS_MAX`].
    length: usize,
    in_run: bool,
    word: u64,
    in_word: bool,
    word_before: u64,
}

impl Reader {
    fn new() -> Reader {
        Reader {
            ending: [CHARACTERS_START; CHARACTERS_MAX + 1],
            length: 0,
            in_run: false,
            word: WORD_START,
            in_word: false,
            word_before: NO_WORD,
        }
    }

    #[inline(never)]
    fn take_wide(&mut self, character: char, see: &mut impl FnMut(Kind, usize)) {
        if shows_nothing(character) {
            return;
        }
        let narrow = match character {
            '\u{FF01}'..='\u{FF5E}' => {
                char::from_u32(character as u32 - 0xFEE0).unwrap_or(character)
            }
            _ => character,
        };
        for lower in narrow.to_lowercase() {
            let class = if lower.is_whitespace() {
                Class::Space
            } else if lower.is_alphanumeric() || lower == '\u{2019}' {
                Class::Word
            } else {
                Class::Mark
            };
            // Curly apostrophes are the same letter of a word as straight ones.
            let code = if lower == '\u{2019}' {
                u32::from(b'\'')
            } else {
                lower as u32
            };
            self.take(code, class, see);
        }
    }

    #[inline(always)]
    fn take(&mut self, code: u32, class: Class, see: &mut impl FnMut(Kind, usize)) {
        if class == Class::Space {
            self.end_run(see);
        } else {
            if !self.in_run {
                self.in_run = true;
                self.length = 0;
                self.push(SPACE, see);
            }
            self.push(code, see);
        }
        if class == Class::Word {
            self.word = longer(self.word, u64::from(code));
            self.in_word = true;
        } else {
            self.end_word(see);
        }
    }

    /// One more character of the run: every n-gram that ends with it.
    #[inline(always)]
    fn push(&mut self, code: u32, see: &mut impl FnMut(Kind, usize)) {
        let code = u64::from(code);
        for n in (1..=CHARACTERS_MAX).rev() {
            self.ending[n] = longer(self.ending[n - 1], code);
        }
        if self.length + 1 < CHARACTERS_MAX {
            self.length += 1;
            for n in 2..=self.length {
                see(Kind::Characters, slot(self.ending[n]));
            }
        } else {
            self.length = CHARACTERS_MAX;
            for n in 2..=CHARACTERS_MAX {
                see(Kind::Characters, slot(self.ending[n]));
            }
        }
    }

    #[inline(always)]
    fn end_run(&mut self, see: &mut impl FnMut(Kind, usize)) {
        if self.in_run {
            self.push(SPACE, see);
            self.in_run = false;
        }
    }

    #[inline(always)]
    fn end_word(&mut self, see: &mut impl FnMut(Kind, usize)) {
        if self.in_word {
            see(Kind::Words, slot(self.word));
            see(Kind::Words, slot(longer(self.word_before, self.word)));
            self.word_before = self.word;
            self.word = WORD_START;
            self.in_word = false;
        }
    }

    #[inline(always)]
    fn finish(&mut self, see: &mut impl FnMut(Kind, usize)) {
        self.end_run(see);
        self.end_word(see);
    }
}

/// Which slots a text had already.
pub(super) struct Seen {
    bits: [u64; SLOTS / 64],
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen {
            bits: [0; SLOTS / 64],
        }
    }

    /// 1 where the slot is new, 0 where it was seen, without a branch.
    #[inline(always)]
    pub(super) fn first(&mut self, slot: usize) -> u64 {
        let word = &mut self.bits[(slot / 64) % (SLOTS / 64)];
        let first = !(*word >> (slot % 64)) & 1;
        *word |= 1 << (slot % 64);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(text: &str) -> Vec<(Kind, usize)> {
        let mut slots = Vec::new();
        visit(text, |kind, slot| slots.push((kind, slot)));
        slots
    }

    fn count(text: &str) -> (usize, usize) {
        let slots = slots(text);
        let words = slots
            .iter()
            .filter(|(kind, _)| *kind == Kind::Words)
            .count();
        (slots.len() - words, words)
    }

    #[test]
    fn n_grams_lie_within_a_run_and_its_spaces() {
        for (text, characters, words) in [
            ("", 0, 0),
            (" \n\t ", 0, 0),
            // " a ": " a", "a ", " a "
            ("a", 3, 2),
            // " abcd ": 5 of two, 4 of three, 3 of four, 2 of five
            ("abcd", 14, 2),
            ("abcd abcd", 28, 4),
            ("  abcd\n\nabcd ", 28, 4),
            ("!?", 6, 0),
            ("it's", 14, 2),
            ("a-b", 10, 4),
        ] {
            assert_eq!(count(text), (characters, words), "{text:?}");
        }
    }

    #[test]
    fn spelling_that_looks_the_same_is_the_same() {
        for (one, other) in [
            ("Hello There", "hello  there"),
            ("GRÖSSE ΑΒΓ ДОМ", "grösse αβγ дом"),
            ("ｆｒｅｅ", "free"),
            ("fr\u{200B}ee m\u{AD}oney", "free money"),
            ("don\u{2019}t", "don't"),
            ("\u{2764}\u{FE0F}", "\u{2764}"),
        ] {
            assert_eq!(slots(one), slots(other), "{one:?} {other:?}");
        }
        for (one, other) in [
            ("ab", "ba"),
            ("a b", "ab"),
            ("free", "tree"),
            ("one two", "two one"),
        ] {
            assert_ne!(slots(one), slots(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn every_slot_is_inside_the_table_whatever_the_text() {
        let odd =
            "\u{FFFF}\u{10FFFF}\u{FDD0}\u{0}\u{7F}\u{300}\u{301}\u{1F468}\u{200D}\u{1F469}\u{FFFD}";
        for text in [odd, &odd.repeat(50), &"\u{130}\u{1E9E}\u{FB01}".repeat(9)] {
            assert!(slots(text).iter().all(|(_, slot)| *slot < SLOTS));
            assert!(!slots(text).is_empty());
        }
    }

    #[test]
    fn a_slot_is_new_once() {
        let mut seen = Seen::new();
        for slot in [0, 63, 64, SLOTS - 1] {
            assert_eq!((seen.first(slot), seen.first(slot)), (1, 0));
        }
    }

    #[test]
    fn slots_spread_evenly() {
        let text: String = (0..40_000).map(|n| format!("w{n} ")).collect();
        let mut seen = Seen::new();
        let (mut all, mut distinct) = (std::collections::BTreeSet::new(), 0);
        visit(&text, |kind, slot| {
            if kind == Kind::Words {
                all.insert(slot);
                distinct += seen.first(slot);
            }
        });
        assert_eq!(all.len() as u64, distinct);
        // 80,000 hashes into 131,072 slots: 59,900 differ if they are even.
        assert!((58_500..61_500).contains(&all.len()), "{}", all.len());
    }
}
