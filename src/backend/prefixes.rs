//! What was computed for the policies asked lately, by bytes.
//!
//! Takes whatever stands for a policy that has been read, with its size; gives it back while it is kept. The least
//! recently used goes first. The newest stays even where it alone is over the limit: its texts are being judged.

use safeguard_udfs::Effort;
use std::collections::HashMap;
use std::sync::Arc;

/// A policy's digest, and the effort its system message asks for.
pub(super) type PrefixKey = (Arc<str>, Effort);

#[derive(Debug)]
pub(super) struct Prefixes<S> {
    kept: HashMap<PrefixKey, Kept<S>>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Kept<S> {
    state: S,
    bytes: usize,
    used: u64,
}

impl<S: Clone> Prefixes<S> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Prefixes {
            kept: HashMap::new(),
            bytes: 0,
            bytes_max,
            clock: 0,
        }
    }

    /// A copy of what is kept.
    pub(super) fn get(&mut self, key: &PrefixKey) -> Option<S> {
        self.clock += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.clock;
        Some(kept.state.clone())
    }

    /// Keeps a state, in place of an older one of this key, and lets go of others where it must.
    pub(super) fn put(&mut self, key: PrefixKey, state: S, bytes: usize) {
        self.remove(&key);
        while self.bytes + bytes > self.bytes_max {
            let Some(oldest) = self
                .kept
                .iter()
                .min_by_key(|(_, kept)| kept.used)
                .map(|(key, _)| key.clone())
            else {
                break;
            };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.kept.insert(
            key,
            Kept {
                state,
                bytes,
                used: self.clock,
            },
        );
    }

    fn remove(&mut self, key: &PrefixKey) {
        self.bytes -= self.kept.remove(key).map_or(0, |kept| kept.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(name: &str) -> PrefixKey {
        (name.into(), Effort::Low)
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_newest_stays() {
        let mut prefixes = Prefixes::new(10);
        let kept = |prefixes: &Prefixes<u8>| {
            let mut names: Vec<&str> = prefixes.kept.keys().map(|(name, _)| &**name).collect();
            names.sort_unstable();
            (names.concat(), prefixes.bytes)
        };
        prefixes.put(key("a"), 1, 4);
        prefixes.put(key("b"), 2, 4);
        assert_eq!(
            (prefixes.get(&key("a")), prefixes.get(&key("c"))),
            (Some(1), None)
        );
        assert_eq!(prefixes.get(&("a".into(), Effort::High)), None);
        prefixes.put(key("c"), 3, 4);
        assert_eq!(kept(&prefixes), ("ac".to_owned(), 8));
        prefixes.put(key("a"), 4, 2);
        assert_eq!(
            (kept(&prefixes), prefixes.get(&key("a"))),
            (("ac".to_owned(), 6), Some(4))
        );
        prefixes.put(key("d"), 5, 99);
        assert_eq!(kept(&prefixes), ("d".to_owned(), 99));
        prefixes.put(key("e"), 6, 10);
        assert_eq!(kept(&prefixes), ("e".to_owned(), 10));
    }
}
