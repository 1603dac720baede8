//! Faults and crashes at every step of publishing.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const FILES: [&str; 4] = ["a.csv", "day=1/b.csv", "day=1/c.csv", "day=2/hour=3/d.csv"];

fn place(folder: &Path, disk: Disk) -> Place {
    Place {
        folder: folder.to_path_buf(),
        roots: Roots::default(),
        disk,
    }
}

/// From the step of this number on: only that one fails, or nothing works any more.
fn fault(at: usize, crash: bool) -> (Disk, Arc<AtomicUsize>) {
    let steps = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&steps);
    let disk = Disk::failing(Arc::new(move |step, path| {
        let now = count.fetch_add(1, SeqCst);
        match now == at || (crash && now > at) {
            true => Err(io::Error::other(format!("{step:?} of {}", path.display()))),
            false => Ok(()),
        }
    }));
    (disk, steps)
}

fn stage(place: &Place) -> io::Result<Staging> {
    let staging = Staging::begin(place.clone(), "1")?;
    for file in FILES {
        let path = staging.dir.join(ROWS).join(file);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, file)?;
    }
    Ok(staging)
}

/// What a listing would show.
fn visible(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    if folder.exists() {
        walk(folder, Path::new(""), &mut all).unwrap();
    }
    let all = all.into_iter().map(|file| file.display().to_string());
    let mut shown: Vec<String> = all.filter(|file| !file.starts_with(HIDDEN)).collect();
    shown.sort();
    shown
}

fn steps_of_a_publication() -> usize {
    let dir = tempfile::tempdir().unwrap();
    let (disk, steps) = fault(usize::MAX, false);
    let place = place(dir.path(), disk);
    stage(&place).unwrap().publish().unwrap();
    assert_eq!(visible(dir.path()), FILES);
    assert!(hidden(dir.path()).unwrap().is_empty());
    steps.load(SeqCst)
}

#[test]
fn a_step_that_fails_leaves_nothing_or_all() {
    let (mut failed, mut published) = (0, 0);
    for at in 0..steps_of_a_publication() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = fault(at, false);
        let done = stage(&place(dir.path(), disk)).and_then(Staging::publish);
        let want: &[&str] = if done.is_ok() { &FILES } else { &[] };
        assert_eq!(visible(dir.path()), want, "step {at}: {done:?}");
        // Recovery changes nothing of it, and clears what is left.
        recover(&place(dir.path(), Disk::default())).unwrap();
        assert_eq!(visible(dir.path()), want, "step {at}: {done:?}");
        assert!(hidden(dir.path()).unwrap().is_empty());
        *(if done.is_ok() {
            &mut published
        } else {
            &mut failed
        }) += 1;
    }
    // All but the last two, which only clear away.
    assert_eq!(published, 2, "{failed} failed");
}

#[test]
fn a_crash_between_any_two_steps_is_rolled_forward_or_leaves_nothing() {
    let steps = steps_of_a_publication();
    let (mut nothing, mut some, mut all) = (0, 0, 0);
    for at in 0..steps {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = fault(at, true);
        let done = stage(&place(dir.path(), disk)).and_then(Staging::publish);
        let decided = hidden(dir.path())
            .unwrap()
            .iter()
            .any(|d| d.join(JOURNAL).exists());
        let before = visible(dir.path()).len();
        some += usize::from(before > 0 && before < FILES.len());
        recover(&place(dir.path(), Disk::default())).unwrap();
        let after = visible(dir.path());
        match decided || done.is_ok() {
            true => assert_eq!(after, FILES, "step {at}: {done:?}"),
            false => assert_eq!(after, [""; 0], "step {at}: {done:?}"),
        }
        match after.is_empty() {
            true => nothing += 1,
            false => all += 1,
        }
        assert!(hidden(dir.path()).unwrap().is_empty(), "step {at}");
    }
    // Between each two of the renames the crash did leave a part.
    assert_eq!(
        some,
        FILES.len() - 1,
        "{nothing} of {steps} left nothing, {all} all"
    );
    assert!(nothing > 0 && all > some);
}

#[test]
fn a_crash_while_rolling_forward_is_rolled_forward() {
    for at in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        // After the journal and one move.
        let renames = AtomicUsize::new(0);
        let crash = Disk::failing(Arc::new(move |step, _| {
            let now = renames.fetch_add(usize::from(step == Step::Rename), SeqCst);
            match now > 1 || (now == 1 && step != Step::Rename && step != Step::Sync) {
                true => Err(io::Error::other("crashed")),
                false => Ok(()),
            }
        }));
        stage(&place(dir.path(), crash))
            .and_then(Staging::publish)
            .unwrap_err();
        assert_eq!(visible(dir.path()), FILES[..1]);
        let (disk, _) = fault(at, true);
        let again = recover(&place(dir.path(), disk));
        assert_eq!(again.is_ok(), at > 6, "step {at}: {again:?}");
        recover(&place(dir.path(), Disk::default())).unwrap();
        assert_eq!(visible(dir.path()), FILES, "step {at}");
    }
}

#[test]
fn what_a_live_owner_stages_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path(), Disk::default());
    let staging = stage(&place).unwrap();
    recover(&place).unwrap();
    staging.publish().unwrap();
    assert_eq!(visible(dir.path()), FILES);
    // Dropped, it is gone.
    let other = stage(&place).unwrap();
    assert_eq!(hidden(dir.path()).unwrap().len(), 1);
    drop(other);
    assert!(hidden(dir.path()).unwrap().is_empty());
    // Nothing written, nothing published.
    Staging::begin(place.clone(), "2")
        .unwrap()
        .publish()
        .unwrap();
    assert_eq!(visible(dir.path()), FILES);
}

#[cfg(unix)]
#[test]
fn a_journal_of_somebody_elses_moves_nothing_across_the_folder() {
    for files in ["[\"../x.csv\"]", "[\"/x.csv\"]", "[\"link/x.csv\"]"] {
        let dir = tempfile::tempdir().unwrap();
        let (table, outside) = (dir.path().join("t"), dir.path().join("outside"));
        let rows = table.join(".safeguard-9/rows");
        fs::create_dir_all(&rows).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x.csv"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, rows.join("link")).unwrap();
        let journal = format!("{{\"files\": {files}}}");
        fs::write(table.join(".safeguard-9/publish"), journal).unwrap();
        let refused = recover(&place(&table, Disk::default()));
        assert!(refused.is_err(), "{files}");
        assert!(outside.join("x.csv").exists(), "{files}");
        assert_eq!(visible(&table), [""; 0], "{files}");
    }
}
