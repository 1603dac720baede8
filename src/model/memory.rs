//! Whether a model fits into memory.
//!
//! Takes a model's shapes, gives the bytes that running it touches again and again; asks the system what is free, and
//! refuses with both numbers. Weights are mapped, so that a model which does not fit loads at once and then reads its
//! weights from disk for every step: better refused than found out. Knows Linux, with its control groups; elsewhere
//! nothing is known to be too large.

use super::layout::{self, Part, Tensor};
use super::{Config, KvCache, ModelError};
use crate::config::{ANALYSIS_TOKENS_MAX, MODEL_WORKING_BYTES, POLICY_TOKENS_MAX, TEXT_TOKENS_MAX};
use std::path::{Path, PathBuf};

/// Bytes that a running model keeps in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of all weights in their files.
    pub file: u64,
    /// Weights that many steps touch: all but the embedding, of which a token reads one row.
    pub weights: u64,
    /// Keys and values of the longest question that is allowed: policy, text and analysis.
    pub keys: u64,
    /// Everything between two layers, and what tokenizer and program hold.
    pub working: u64,
}

impl Needs {
    /// Their sum, the file apart.
    pub fn total(&self) -> u64 {
        self.weights + self.keys + self.working
    }
}

/// What a model of these shapes needs.
pub fn needed(config: &Config) -> Needs {
    let tensors = layout::tensors(config);
    let sum = |keep: fn(&Tensor) -> bool| -> u64 {
        tensors.iter().filter(|t| keep(t)).map(Tensor::bytes).sum()
    };
    let longest = POLICY_TOKENS_MAX + TEXT_TOKENS_MAX + ANALYSIS_TOKENS_MAX;
    Needs {
        file: sum(|_| true),
        weights: sum(|tensor| tensor.part != Part::Embedding),
        keys: KvCache::own_bytes(config, 0, longest) as u64,
        working: MODEL_WORKING_BYTES,
    }
}

/// Refuses a model folder whose model needs more memory than is available now. What else is wrong with a folder is for
/// opening it to say.
///
/// # Errors
/// [`ModelError::Memory`] with both numbers.
pub fn check_memory(dir: &Path) -> Result<(), ModelError> {
    match Config::open(dir) {
        Ok(config) => check(needed(&config), available()),
        Err(_) => Ok(()),
    }
}

/// As [`check_memory`], of numbers that are known; nothing is refused where nobody knows what is available.
pub fn check(needs: Needs, available: Option<u64>) -> Result<(), ModelError> {
    match available {
        Some(available) if needs.total() > available => {
            Err(ModelError::Memory { needs, available })
        }
        _ => Ok(()),
    }
}

/// Bytes that this process may still use: what the system can free without swapping, or less where a control group
/// says so. `None` where neither is known.
pub fn available() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field(&text, "MemAvailable:"))
        .map(|kibibytes| kibibytes * 1024);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_folders(&groups)
        .iter()
        .filter_map(|folder| group_room(folder))
        .min();
    [system, group].into_iter().flatten().min()
}

/// Bytes of this process that are in memory now, mapped files included; `None` where the system does not say.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024)
}

/// The number behind a word that begins a line.
fn field(text: &str, word: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
}

/// The folders of the memory groups that a process is in, its own first; limits of those above it bind it too.
fn group_folders(groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|name| name == "memory") => "/sys/fs/cgroup/memory",
            _ => continue,
        };
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let above = own
            .ancestors()
            .take_while(|folder| folder.starts_with(root));
        folders.extend(above.map(Path::to_owned));
    }
    folders
}

/// What a group's limit leaves; files that it cached count as free, as they do in `MemAvailable`.
fn group_room(folder: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // The second names are those of the first version of control groups.
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = |name| field(&stat, name).unwrap_or(0);
    let files = cached("inactive_file ") + cached("active_file ");
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano() -> Config {
        Config::parse(include_bytes!("../backend/nano/config.json")).expect("nano")
    }

    #[test]
    fn needs_grow_with_the_shapes() {
        let small = needed(&nano());
        assert_eq!(small.file - small.weights, 8192 * 128 * 2, "the embedding");
        let large = needed(&Config {
            hidden_size: 2880,
            intermediate_size: 2880,
            num_hidden_layers: 24,
            layer_types: nano().layer_types.repeat(6),
            num_attention_heads: 64,
            num_key_value_heads: 8,
            num_local_experts: 32,
            vocab_size: 201_088,
            ..nano()
        });
        assert_eq!(large.file / 1_000_000, 13_761);
        assert_eq!(large.weights / 1_000_000, 12_602);
        assert!(
            (400_000_000..1_500_000_000).contains(&large.keys),
            "{large:?}"
        );
        assert_eq!(large.total(), large.weights + large.keys + large.working);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let needs = Needs {
            file: 13_760_000_000,
            weights: 12_600_000_000,
            keys: 1_200_000_000,
            working: 536_870_912,
        };
        let refused = check(needs, Some(8_000_000_000))
            .expect_err("refused")
            .to_string();
        assert_eq!(
            refused,
            "the model needs 14.3 GB of memory (12.6 GB of weights, 1.2 GB of keys and values, 0.5 GB of room to \
             work), 8.0 GB are available"
        );
        assert!(check(needs, Some(needs.total())).is_ok());
        assert!(check(needs, Some(needs.total() - 1)).is_err());
        assert!(check(needs, None).is_ok());
        assert!(!cfg!(target_os = "linux") || available().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn groups_and_their_limits_are_read() {
        let found: Vec<String> = group_folders("5:cpu:/a\n4:hugetlb,memory:/x/y\n0::/s/t\nodd\n")
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let v1 = ["/x/y", "/x", ""].map(|below| format!("/sys/fs/cgroup/memory{below}"));
        let v2 = ["/s/t", "/s", ""].map(|below| format!("/sys/fs/cgroup{below}"));
        assert_eq!(found, [v1, v2].concat());
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        assert_eq!(group_room(dir.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(group_room(dir.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(group_room(dir.path()), Some(300));
        write(
            "memory.stat",
            "anon 3\ninactive_file 200\nactive_file 100\n",
        );
        assert_eq!(group_room(dir.path()), Some(600));
        write("memory.max", "300\n");
        assert_eq!(group_room(dir.path()), Some(0));
    }
}
