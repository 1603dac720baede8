//! Who and where: the user, the database, the server, settings.

use super::Functions;
use crate::server::catalog::micros;
use crate::server::catalog::procs;
use crate::server::catalog::rows::{Cell, Kind};
use crate::server::failure::Failure;
use crate::server::settings::SERVER_VERSION;
use datafusion::logical_expr::Volatility::{Stable, Volatile};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Numbers of transactions, which nothing depends on.
static TRANSACTIONS: AtomicI64 = AtomicI64::new(1_000);

/// What `version()` says.
fn version() -> String {
    format!(
        "PostgreSQL {SERVER_VERSION} (safeguard-sql {}, DataFusion 55)",
        env!("CARGO_PKG_VERSION")
    )
}

pub(super) fn define(functions: &mut Functions) {
    people(functions);
    server(functions);
    settings(functions);
}

fn people(functions: &mut Functions) {
    let facts = Arc::clone(&functions.facts);
    let names = ["current_user", "session_user", "user", "current_role"];
    functions.constant(&names, 0..=0, &facts.user.as_str().into(), Kind::Text);
    let names = ["current_database", "current_catalog"];
    functions.constant(&names, 0..=0, &facts.database.as_str().into(), Kind::Text);
    let (known, seen) = (Arc::clone(&functions.shared), Arc::clone(&facts));
    functions.define(
        ("pg_get_userbyid", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            let oid = args[0].int().unwrap_or(0);
            let name = procs::role_name(&known, &seen, oid as i32);
            Ok(name
                .unwrap_or_else(|| format!("unknown (OID={oid})"))
                .into())
        },
    );
    let path = Arc::clone(&facts.settings);
    functions.define(
        ("current_schema", Kind::Text),
        0..=0,
        Stable,
        move |_, _| Ok(path.search_path().into_iter().next().into()),
    );
    let path = Arc::clone(&facts.settings);
    functions.define(
        ("current_schemas", Kind::Texts),
        1..=1,
        Stable,
        move |args, _| {
            let mut schemas = path.search_path();
            if args[0].truth() == Some(true) && !schemas.iter().any(|s| s == "pg_catalog") {
                schemas.insert(0, "pg_catalog".to_owned());
            }
            Ok(schemas.into())
        },
    );
    let addr = facts.client_addr.map(|addr| addr.ip().to_string());
    let names = ["inet_client_addr"];
    functions.constant(&names, 0..=0, &addr.into(), Kind::Text);
    let port = facts.client_addr.map(|addr| i32::from(addr.port()));
    functions.constant(&["inet_client_port"], 0..=0, &port.into(), Kind::Int4);
    functions.constant(&["pg_client_encoding"], 0..=0, &"UTF8".into(), Kind::Text);
    functions.constant(&["pg_backend_pid"], 0..=0, &facts.pid.into(), Kind::Int4);
}

fn server(functions: &mut Functions) {
    let started = Cell::Time(functions.shared.started);
    let names = ["pg_postmaster_start_time", "pg_conf_load_time"];
    functions.constant(&names, 0..=0, &started, Kind::Time);
    functions.constant(&["version"], 0..=0, &version().into(), Kind::Text);
    functions.constant(&["getdatabaseencoding"], 0..=0, &"UTF8".into(), Kind::Text);
    functions.constant(&["inet_server_addr"], 0..=0, &Cell::Null, Kind::Text);
    functions.constant(&["inet_server_port"], 0..=0, &Cell::Null, Kind::Int4);
    let no = [
        "pg_is_in_recovery",
        "pg_is_in_backup",
        "pg_is_wal_replay_paused",
    ];
    functions.constant(&no, 0..=0, &false.into(), Kind::Bool);
    functions.constant(&["pg_my_temp_schema"], 0..=0, &0.into(), Kind::Int4);
    for name in [
        "clock_timestamp",
        "statement_timestamp",
        "transaction_timestamp",
    ] {
        functions.define((name, Kind::Time), 0..=0, Volatile, |_, _| {
            Ok(Cell::Time(micros()))
        });
    }
    for name in [
        "txid_current",
        "pg_current_xact_id",
        "txid_current_if_assigned",
    ] {
        functions.define((name, Kind::Int8), 0..=0, Volatile, |_, _| {
            Ok(TRANSACTIONS.fetch_add(1, Ordering::Relaxed).into())
        });
    }
    for name in ["pg_advisory_unlock_all", "pg_stat_clear_snapshot"] {
        functions.define((name, Kind::Text), 0..=0, Volatile, |_, _| Ok("".into()));
    }
    for name in [
        "pg_advisory_lock",
        "pg_advisory_xact_lock",
        "pg_try_advisory_lock",
        "pg_try_advisory_xact_lock",
        "pg_advisory_unlock",
    ] {
        functions.define((name, Kind::Bool), 1..=2, Volatile, |_, _| {
            Err(Failure::new("0A000", "advisory locks are not supported").into())
        });
    }
    for name in ["pg_cancel_backend", "pg_terminate_backend"] {
        functions.define((name, Kind::Bool), 1..=2, Volatile, move |_, _| {
            let message = format!("{name} is not supported");
            let hint = "cancel a statement from the connection that runs it";
            Err(Failure::new("0A000", message).with_hint(hint).into())
        });
    }
    functions.define(("pg_notify", Kind::Text), 2..=2, Volatile, |_, _| {
        Err(Failure::new("0A000", "NOTIFY is not supported").into())
    });
}

fn settings(functions: &mut Functions) {
    let settings = Arc::clone(&functions.facts.settings);
    functions.define(
        ("current_setting", Kind::Text),
        1..=2,
        Stable,
        move |args, _| {
            let name = args[0].text().unwrap_or_default();
            match settings.get(&name) {
                Ok(value) => Ok(value.into()),
                Err(_) if args.get(1).and_then(Cell::truth) == Some(true) => Ok(Cell::Null),
                Err(failure) => Err(failure.into()),
            }
        },
    );
    let settings = Arc::clone(&functions.facts.settings);
    let function = functions.define(
        ("set_config", Kind::Text),
        3..=3,
        Volatile,
        move |args, _| {
            let Some(name) = args[0].text() else {
                return Err(Failure::new("22004", "a setting's name must not be null").into());
            };
            let value = args[1].text();
            settings.set(&name, value.as_deref(), args[2].truth() == Some(true))?;
            Ok(settings.get(&name)?.into())
        },
    );
    // A NULL value resets.
    function.strict = false;
}
