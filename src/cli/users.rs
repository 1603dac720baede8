//! `safeguard user ..`: who may log in to the server. Works beside a running server, which sees the change at once.
//!
//! Takes a checked command, asks for a password without echo or reads a line of it, stores a verifier of it and never
//! the password. Knows the store's users and nothing of connections.

use super::args::{DataDir, PasswordFrom, User};
use super::{cannot_write, say};
use crate::config::{PASSWORD_BYTES_MAX, Role, SCRAM_ITERATIONS, USER_NAME_BYTES_MAX};
use crate::error::Error;
use crate::server::failure::Failure;
use crate::server::scram::Verifier;
use crate::store::{Store, UserRow, now};
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

/// Does what was typed.
pub(super) async fn run(command: User) -> ExitCode {
    match done(command).await {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("ERROR:  {failure}"));
            if let Some(hint) = failure.hint {
                say(&format!("HINT:  {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

async fn done(command: User) -> Result<ExitCode, Failure> {
    match command {
        User::Add {
            name,
            role,
            password,
            data,
        } => add(&data, name, role, &password).await,
        User::Password {
            name,
            password,
            data,
        } => {
            let (store, user) = known(&data, &name).await?;
            let verifier = verifier(&name, &password)?;
            put(&store, UserRow { verifier, ..user }).await?;
            say(&format!("user \"{name}\" has another password"));
            Ok(ExitCode::SUCCESS)
        }
        User::Role { name, role, data } => {
            let (store, user) = known(&data, &name).await?;
            let role = role.to_string();
            say(&format!("user \"{name}\" is {role} from the next login on"));
            put(&store, UserRow { role, ..user }).await?;
            Ok(ExitCode::SUCCESS)
        }
        User::List { data } => list(&data).await,
        User::Remove { name, data } => {
            let store = open(&data)?;
            match store.remove_user(&name).await.map_err(Error::from)? {
                true => {
                    say(&format!("user \"{name}\" can log in no more"));
                    Ok(ExitCode::SUCCESS)
                }
                false => Err(unknown(&name)),
            }
        }
    }
}

async fn add(
    data: &DataDir,
    name: String,
    role: Role,
    password: &PasswordFrom,
) -> Result<ExitCode, Failure> {
    if name.is_empty() || name.len() > USER_NAME_BYTES_MAX || name.contains(char::is_control) {
        let why = format!(
            "a user's name has 1 to {USER_NAME_BYTES_MAX} bytes, none of them control characters"
        );
        return Err(Failure::new("42602", why));
    }
    let store = data.open().map_err(Error::from)?;
    if store.user(&name).await.map_err(Error::from)?.is_some() {
        let why = format!("user \"{name}\" already exists");
        let hint = "safeguard user password changes a password, safeguard user role a role";
        return Err(Failure::new("42710", why).with_hint(hint));
    }
    let verifier = verifier(&name, password)?;
    let said = format!("user \"{name}\" can log in as {role}");
    let user = UserRow {
        name,
        role: role.to_string(),
        verifier,
        created_at: now(),
        valid_until: None,
    };
    put(&store, user).await?;
    say(&said);
    Ok(ExitCode::SUCCESS)
}

async fn put(store: &Store, user: UserRow) -> Result<(), Failure> {
    Ok(store.put_user(user).await.map_err(Error::from)?)
}

async fn list(data: &DataDir) -> Result<ExitCode, Failure> {
    let users = open(data)?.users().await.map_err(Error::from)?;
    let width = users.iter().map(|user| user.name.chars().count()).max();
    let width = width.unwrap_or(0).max("name".len());
    let mut lines = format!("{:width$}  role\n", "name");
    for user in users {
        lines += &format!("{:width$}  {}\n", user.name, user.role);
    }
    match io::stdout().lock().write_all(lines.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(cannot_write(&error)),
    }
}

/// A store that is there: a mistyped folder is not made.
fn open(data: &DataDir) -> Result<Store, Failure> {
    if !data.is_there() {
        let why = format!("there is no store in {}", data.dir.display());
        return Err(Failure::new("58P01", why).with_hint("--data-dir names its folder"));
    }
    Ok(data.open().map_err(Error::from)?)
}

async fn known(data: &DataDir, name: &str) -> Result<(Store, UserRow), Failure> {
    let store = open(data)?;
    let user = store.user(name).await.map_err(Error::from)?;
    Ok((store, user.ok_or_else(|| unknown(name))?))
}

fn unknown(name: &str) -> Failure {
    Failure::new("42704", format!("user \"{name}\" does not exist"))
        .with_hint("safeguard user list lists the users")
}

/// What is stored of a password.
fn verifier(name: &str, source: &PasswordFrom) -> Result<String, Failure> {
    let unread =
        |error: io::Error| Failure::new("58030", format!("cannot read a password: {error}"));
    let password = match !source.stdin && io::stdin().is_terminal() {
        true => {
            let first = asked(&format!("Password for user {name}: ")).map_err(unread)?;
            let second = asked("Enter it again: ").map_err(unread)?;
            if first != second {
                return Err(Failure::new("28P01", "the passwords are not the same"));
            }
            first
        }
        false => line(io::stdin().lock()).map_err(unread)?,
    };
    match password.len() {
        0 => Err(Failure::new("28P01", "a password cannot be empty")),
        1..=PASSWORD_BYTES_MAX => Ok(Verifier::derive(&password, SCRAM_ITERATIONS)?.to_string()),
        _ => {
            let why = format!("a password has at most {PASSWORD_BYTES_MAX} bytes");
            Err(Failure::new("28P01", why))
        }
    }
}

/// A line without its end, read not much further than the longest password.
fn line(from: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.take(PASSWORD_BYTES_MAX as u64 + 3)
        .read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Asks at the terminal, which does not show what is typed.
fn asked(prompt: &str) -> io::Result<String> {
    let mut err = io::stderr();
    err.write_all(prompt.as_bytes())?;
    err.flush()?;
    let _silence = Silence::begin()?;
    line(io::stdin().lock())
}

/// A terminal that does not show what is typed, until it is dropped.
#[cfg(unix)]
struct Silence(libc::termios);

#[cfg(unix)]
impl Silence {
    fn begin() -> io::Result<Silence> {
        let mut found = std::mem::MaybeUninit::uninit();
        // SAFETY: the call writes a whole termios where it says that it succeeded.
        let before = unsafe {
            if libc::tcgetattr(libc::STDIN_FILENO, found.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            found.assume_init()
        };
        let mut silent = before;
        silent.c_lflag &= !libc::ECHO;
        silent.c_lflag |= libc::ECHONL;
        // SAFETY: the call reads a termios that lives until it returns.
        match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &silent) } {
            0 => Ok(Silence(before)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(unix)]
impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: as above. A terminal that is gone needs nothing.
        let _ = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.0) };
    }
}

#[cfg(not(unix))]
struct Silence;

#[cfg(not(unix))]
impl Silence {
    fn begin() -> io::Result<Silence> {
        let why = "this terminal shows what is typed; --password-stdin reads a line";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        let long = "x".repeat(5_000);
        let cases = [
            ("", ""),
            ("\n", ""),
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\nmore\n", "secret"),
            (" two words \n", " two words "),
            (&long, &long[..PASSWORD_BYTES_MAX + 3]),
        ];
        for (typed, password) in cases {
            assert_eq!(line(typed.as_bytes()).unwrap(), password, "{typed:?}");
        }
        assert!(line(&b"\xff\n"[..]).is_err());
    }
}
