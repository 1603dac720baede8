//! A released model from a hub into the folder of models.
//!
//! Takes a repository's name, gives its folder once every byte in it was digested and found to be what the hub says.
//! Until then all is kept under `.partial`, where the next pull goes on: a cut connection, a killed process or a full
//! disk costs the bytes under way at most. Takes the files that a model is opened from and none of the copies in other
//! layouts beside them.

use super::folder::{RECORD, Record};
use super::hub::{Failed, Hub, RemoteFile};
use super::{ModelsError, disk};
use crate::config::HUB_TRIES_MAX;
use crate::model::{Config, scan};
use ring::digest::Context;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read and digested at once.
const BUFFER: usize = 1 << 20;
/// Small files beside the weights, where a repository has them.
const SMALL: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// How far a pull is.
#[derive(Debug, Clone, Copy)]
pub struct Pulled<'a> {
    /// The file under way.
    pub file: &'a str,
    /// Bytes of all files that are there.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// What is there after a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// The model's folder.
    pub dir: PathBuf,
    /// The commit it is of.
    pub commit: String,
    /// BLAKE3 (hex) of config and weights.
    pub digest: String,
    /// Bytes that were fetched now.
    pub fetched: u64,
}

/// One pull.
struct Work<'a> {
    hub: &'a Hub,
    repository: &'a str,
    commit: String,
    partial: PathBuf,
    fetched: u64,
    done: u64,
    total: u64,
    told: &'a dyn Fn(Pulled<'_>),
}

/// Pulls `repository` (`OWNER/NAME`) at a branch, tag or commit into `models`. A model that is there at that commit is
/// left as it is; one of another commit is replaced when the new one is complete.
pub fn pull(
    hub: &Hub,
    repository: &str,
    revision: &str,
    models: &Path,
    told: &dyn Fn(Pulled<'_>),
) -> Result<Pull, ModelsError> {
    check_name(repository, revision)?;
    let (commit, files) = retried(hub, || hub.files(repository, revision))?;
    let files = needed(repository, files)?;
    let dir = models.join(repository);
    let record = |digest: String| Record {
        repository: repository.to_owned(),
        commit: commit.clone(),
        files: listed(&files),
        digest,
    };
    let old = Record::of(&dir);
    if let Some(old) = old
        .as_ref()
        .filter(|old| old.files == listed(&files) && whole(&dir, &files))
    {
        return Ok(Pull {
            dir,
            digest: old.digest.clone(),
            commit,
            fetched: 0,
        });
    }
    if dir.join("config.json").exists() && old.is_none() {
        return Err(ModelsError::Foreign(dir));
    }
    let partial = models.join(".partial").join(repository);
    let new = partial.join("new");
    std::fs::create_dir_all(&new).map_err(ModelsError::io("make", &new))?;
    let _lock = lock(&partial)?;
    let mut work = Work {
        hub,
        repository,
        commit: commit.clone(),
        partial: partial.clone(),
        fetched: 0,
        done: 0,
        total: files.iter().map(|file| file.bytes).sum(),
        told,
    };
    disk::check(&partial, work.total.saturating_sub(held(&partial)))?;
    for file in &files {
        work.file(file, old.as_ref().map(|old| (old, &*dir)))?;
        if file.name == "config.json" {
            // Before the weights: a model that cannot be used should not cost an hour.
            Config::open(&new)?;
        }
    }
    let digest = scan::digest(&new)?;
    let path = new.join(RECORD);
    let text = serde_json::to_vec_pretty(&record(digest.clone())).expect("bug: a record is JSON");
    std::fs::write(&path, text).map_err(ModelsError::io("write", &path))?;
    keep_only(&new, &files)?;
    swap(&new, &dir, &partial)?;
    Ok(Pull {
        dir,
        commit,
        digest,
        fetched: work.fetched,
    })
}

/// A context's digest in hex.
pub(super) fn hex(context: Context) -> String {
    let digest = context.finish();
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Work<'_> {
    /// One file into the new folder, from where it may be already, else from the hub.
    fn file(
        &mut self,
        file: &RemoteFile,
        old: Option<(&Record, &Path)>,
    ) -> Result<(), ModelsError> {
        let path = self.partial.join("new").join(&file.name);
        let is_it = |path: &Path| -> Result<bool, ModelsError> {
            let same = path.metadata().is_ok_and(|found| found.len() == file.bytes);
            Ok(same && hex(digested(path, file, file.bytes)?) == file.digest.hex())
        };
        if path.exists() && !is_it(&path)? {
            std::fs::remove_file(&path).map_err(ModelsError::io("remove", &path))?;
        }
        if let Some((record, dir)) = old
            && !path.exists()
            && record.files.get(&file.name) == Some(&file.digest.to_string())
            && is_it(&dir.join(&file.name))?
        {
            // Another commit of the same model shares most of its files; where links cannot be made it is fetched.
            let _ = std::fs::hard_link(dir.join(&file.name), &path);
        }
        if !path.exists() {
            let part = self.partial.join(format!("{}.part", file.digest.hex()));
            self.fetch(file, &part)?;
            std::fs::rename(&part, &path).map_err(ModelsError::io("write", &path))?;
        } else {
            self.done += file.bytes;
        }
        self.tell(file);
        Ok(())
    }

    /// Fetches what a part of a file lacks, as often as it takes, and digests all of it.
    fn fetch(&mut self, file: &RemoteFile, part: &Path) -> Result<(), ModelsError> {
        let mut out = File::options()
            .create(true)
            .append(true)
            .open(part)
            .map_err(ModelsError::io("write", part))?;
        let mut have = out.metadata().map_err(ModelsError::io("read", part))?.len();
        if have > file.bytes {
            out.set_len(0).map_err(ModelsError::io("write", part))?;
            have = 0;
        }
        let mut digest = digested(part, file, have)?;
        self.done += have;
        let mut tries = 0;
        while have < file.bytes {
            let before = have;
            let end = self.go_on(file, part, &mut out, (&mut have, &mut digest))?;
            tries = if have > before { 0 } else { tries + 1 };
            if let Some(why) = end
                && have < file.bytes
            {
                if tries >= HUB_TRIES_MAX {
                    return Err(self.gave_up(file, have, why));
                }
                pause(self.hub.pause, tries);
            }
        }
        out.sync_all().map_err(ModelsError::io("write", part))?;
        let found = hex(digest);
        if found == file.digest.hex() {
            return Ok(());
        }
        std::fs::remove_file(part).map_err(ModelsError::io("remove", part))?;
        Err(ModelsError::Digest {
            file: file.name.clone(),
            expected: file.digest.hex().to_owned(),
            found,
        })
    }

    /// One request for the rest of a file; why it ended, where not well.
    fn go_on(
        &mut self,
        file: &RemoteFile,
        part: &Path,
        out: &mut File,
        (have, digest): (&mut u64, &mut Context),
    ) -> Result<Option<String>, ModelsError> {
        let opened = self
            .hub
            .read(self.repository, &self.commit, &file.name, *have);
        let (begins, mut body) = match opened {
            Ok(opened) => opened,
            Err(Failed::Passing(why)) => return Ok(Some(why)),
            Err(Failed::Final(error)) => return Err(error),
        };
        if begins < *have {
            // The hub would not begin where it was told to.
            out.set_len(begins)
                .map_err(ModelsError::io("write", part))?;
            self.done -= *have - begins;
            *have = begins;
            *digest = digested(part, file, begins)?;
        }
        let mut buffer = vec![0; BUFFER];
        while *have < file.bytes {
            let room = (file.bytes - *have).min(BUFFER as u64) as usize;
            let read = match body.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Some("the connection ended early".to_owned())),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error.to_string())),
            };
            let bytes = &buffer[..read];
            out.write_all(bytes)
                .map_err(ModelsError::io("write", part))?;
            digest.update(bytes);
            *have += read as u64;
            self.done += read as u64;
            self.fetched += read as u64;
            self.tell(file);
        }
        Ok(None)
    }

    fn tell(&self, file: &RemoteFile) {
        (self.told)(Pulled {
            file: &file.name,
            done: self.done,
            total: self.total,
        });
    }

    fn gave_up(&self, file: &RemoteFile, have: u64, why: String) -> ModelsError {
        ModelsError::Cut {
            hub: self.hub.endpoint().to_owned(),
            file: file.name.clone(),
            have,
            bytes: file.bytes,
            why,
        }
    }
}

fn retried<T>(hub: &Hub, mut ask: impl FnMut() -> Result<T, Failed>) -> Result<T, ModelsError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Passing(why)) if tries >= HUB_TRIES_MAX => {
                return Err(ModelsError::Hub {
                    hub: hub.endpoint().to_owned(),
                    why,
                });
            }
            Err(Failed::Passing(_)) => pause(hub.pause, tries),
        }
    }
}

fn pause(first: Duration, tries: u32) {
    std::thread::sleep(first * 2u32.saturating_pow(tries.saturating_sub(1)));
}

/// What goes into paths and addresses must not be able to leave them.
fn check_name(repository: &str, revision: &str) -> Result<(), ModelsError> {
    let plain = |word: &str| {
        let of = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !word.is_empty() && !word.starts_with('.') && word.chars().all(of)
    };
    let parts: Vec<&str> = repository.split('/').collect();
    if parts.len() != 2 || !parts.into_iter().all(plain) {
        return Err(ModelsError::Name(repository.to_owned()));
    }
    match revision.split('/').all(plain) {
        true => Ok(()),
        false => Err(ModelsError::NoRevision {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        }),
    }
}

/// The files that a model is opened from, `config.json` first and weights last.
fn needed(repository: &str, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, ModelsError> {
    let weights = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        name.strip_suffix(".safetensors")
            .is_some_and(|stem| stem.starts_with("model") && stem.chars().all(plain))
    };
    let mut files: Vec<RemoteFile> = files
        .into_iter()
        .filter(|file| SMALL.contains(&&*file.name) || weights(&file.name))
        .collect();
    files.sort_by_key(|file| {
        let small = SMALL.iter().position(|name| *name == file.name);
        (small.unwrap_or(SMALL.len()), file.name.clone())
    });
    let has = |wanted: &dyn Fn(&str) -> bool| files.iter().any(|file| wanted(&file.name));
    match has(&|name| name == "config.json") && has(&weights) {
        true => Ok(files),
        false => Err(ModelsError::NoModel(repository.to_owned())),
    }
}

fn listed(files: &[RemoteFile]) -> BTreeMap<String, String> {
    let one = |file: &RemoteFile| (file.name.clone(), file.digest.to_string());
    files.iter().map(one).collect()
}

/// Whether a folder has all files in their sizes; `safeguard model verify` reads their bytes.
fn whole(dir: &Path, files: &[RemoteFile]) -> bool {
    let there = |file: &RemoteFile| dir.join(&file.name).metadata().map(|found| found.len());
    files
        .iter()
        .all(|file| there(file).is_ok_and(|len| len == file.bytes))
}

/// Bytes under `.partial` already.
fn held(partial: &Path) -> u64 {
    let files = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .map(|found| found.len())
            .sum::<u64>()
    };
    files(partial) + files(&partial.join("new"))
}

/// Digests the first `len` bytes of a file.
fn digested(path: &Path, file: &RemoteFile, len: u64) -> Result<Context, ModelsError> {
    let mut digest = file.digest.begin(file.bytes);
    let mut read = || -> std::io::Result<()> {
        let mut left = File::open(path)?.take(len);
        let mut buffer = vec![0; BUFFER];
        loop {
            match left.read(&mut buffer)? {
                0 => return Ok(()),
                read => digest.update(&buffer[..read]),
            }
        }
    };
    read().map_err(ModelsError::io("read", path))?;
    Ok(digest)
}

/// Held until it is dropped; two pulls of one model would write the same file.
fn lock(partial: &Path) -> Result<File, ModelsError> {
    let path = partial.join("lock");
    let file = File::create(&path).map_err(ModelsError::io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ModelsError::Busy(partial.to_owned())),
        Err(TryLockError::Error(error)) => Err(ModelsError::io("lock", &path)(error)),
    }
}

/// Removes what an earlier pull of another commit left in the new folder.
fn keep_only(new: &Path, files: &[RemoteFile]) -> Result<(), ModelsError> {
    for entry in std::fs::read_dir(new).map_err(ModelsError::io("read", new))? {
        let entry = entry.map_err(ModelsError::io("read", new))?;
        let name = entry.file_name();
        let wanted = name == RECORD || files.iter().any(|file| name == *file.name);
        if !wanted {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(ModelsError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Puts the new folder where the model is to be. A process that has the old one open keeps it.
fn swap(new: &Path, dir: &Path, partial: &Path) -> Result<(), ModelsError> {
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above).map_err(ModelsError::io("make", above))?;
    }
    if dir.exists() {
        let old = partial.join("old");
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(ModelsError::io("remove", &old))?;
        }
        std::fs::rename(dir, &old).map_err(ModelsError::io("move", dir))?;
    }
    std::fs::rename(new, dir).map_err(ModelsError::io("move", new))?;
    std::fs::remove_dir_all(partial).map_err(ModelsError::io("remove", partial))
}

#[cfg(test)]
mod tests {
    use super::super::hub::Digest;
    use super::*;

    #[test]
    fn names_cannot_leave_their_folder() {
        let good = [
            ("openai/gpt-oss-20b", "main"),
            ("a/b_c.d", "refs/pr/1"),
            ("a/b", "v1.0"),
        ];
        for (repository, revision) in good {
            assert!(
                check_name(repository, revision).is_ok(),
                "{repository} {revision}"
            );
        }
        for (repository, revision) in [
            ("gpt-oss", "main"),
            ("a/b/c", "main"),
            ("../b", "main"),
            ("a/.partial", "main"),
            ("a/b?c", "main"),
            ("a/", "main"),
            ("a/b", "../../x"),
            ("a/b", ""),
            ("a/b", "x y"),
        ] {
            assert!(
                check_name(repository, revision).is_err(),
                "{repository} {revision}"
            );
        }
    }

    #[test]
    fn copies_in_other_layouts_are_left_out() {
        let file = |name: &str| RemoteFile {
            name: name.to_owned(),
            bytes: 1,
            digest: Digest::Git("0".to_owned()),
        };
        let all = [
            "LICENSE",
            "model-00001-of-00002.safetensors",
            "model-00000-of-00002.safetensors",
            "original/model.safetensors",
            "metal/model.bin",
            "tokenizer.json",
            "model.safetensors.index.json",
            "config.json",
            "model..safetensors",
            "other.safetensors",
            "README.md",
        ];
        let kept = needed("a/b", all.map(file).to_vec()).expect("a model");
        let names: Vec<&str> = kept.iter().map(|file| &*file.name).collect();
        assert_eq!(
            names,
            [
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00000-of-00002.safetensors",
                "model-00001-of-00002.safetensors"
            ]
        );
        for lacking in ["config.json", "original/model.safetensors"] {
            assert!(needed("a/b", vec![file(lacking)]).is_err(), "{lacking}");
        }
    }
}
