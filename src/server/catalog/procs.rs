//! Functions, databases, roles, settings, connections: what clients ask about the server rather than about tables.

use super::Facts;
use super::functions_of::Function;
use super::objects::OWNER;
use super::provider::{Shared, database};
use super::rows::{Cell, Row};

/// What a user may be; a group that nobody logs in as.
const GROUPS: [&str; 3] = ["admin", "analyst", "reader"];
/// `pg_proc`'s own OID, to which descriptions of functions belong.
const PROCS: i32 = 1255;

/// The rows of this program's functions.
pub(super) fn procs(shared: &Shared) -> Vec<Row> {
    let row = |function: &Function| {
        let types: Vec<String> = function
            .arguments
            .iter()
            .map(|(_, oid)| oid.to_string())
            .collect();
        let names = function
            .arguments
            .iter()
            .chain(function.columns.iter().flatten());
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        let mut row: Row = vec![
            ("oid", function.oid.into()),
            ("proname", function.name.as_str().into()),
            ("pronamespace", shared.oids.schema(function.schema).into()),
            ("proowner", OWNER.into()),
            ("prolang", 12.into()),
            ("procost", Cell::Float(1000.0)),
            (
                "prorows",
                Cell::Float(if function.columns.is_some() { 1.0 } else { 0.0 }),
            ),
            ("prosupport", "-".into()),
            ("prokind", "f".into()),
            ("proretset", function.columns.is_some().into()),
            ("provolatile", "v".into()),
            ("proparallel", "u".into()),
            (
                "pronargs",
                Cell::Int(i64::try_from(types.len()).unwrap_or(0)),
            ),
            ("prorettype", function.returns.into()),
            ("proargtypes", types.join(" ").into()),
            ("proargnames", names.into()),
            ("prosrc", function.name.as_str().into()),
        ];
        if let Some(columns) = &function.columns {
            let all = function.arguments.iter().chain(columns);
            let all: Vec<i32> = all.map(|(_, oid)| *oid).collect();
            let modes = std::iter::repeat_n("i", function.arguments.len());
            let modes: Vec<&str> = modes
                .chain(std::iter::repeat_n("t", columns.len()))
                .collect();
            row.push(("proallargtypes", all.into()));
            row.push(("proargmodes", modes.into()));
        }
        row
    };
    shared.functions.iter().map(row).collect()
}

pub(super) fn descriptions(shared: &Shared) -> Vec<Row> {
    let mut all: Vec<_> = shared.descriptions.iter().collect();
    all.sort();
    let row = |((object, class, sub), text): (&(i32, i32, i32), &String)| {
        vec![
            ("objoid", (*object).into()),
            ("classoid", (*class).into()),
            ("objsubid", (*sub).into()),
            ("description", text.as_str().into()),
        ]
    };
    all.into_iter().map(row).collect()
}

/// The description of a function.
pub(super) fn description(shared: &Shared, oid: i32) -> Option<String> {
    shared.descriptions.get(&(oid, PROCS, 0)).cloned()
}

pub(super) fn databases(shared: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let name = database(shared, facts);
    vec![vec![
        ("oid", shared.oids.of("database", &shared.database).into()),
        ("datname", name.into()),
        ("datdba", OWNER.into()),
        // UTF8
        ("encoding", 6.into()),
        ("datlocprovider", "c".into()),
        ("datallowconn", true.into()),
        ("datconnlimit", Cell::Int(-1)),
        ("dattablespace", 1663.into()),
        ("datcollate", "C".into()),
        ("datctype", "C".into()),
    ]]
}

/// The connection's user and the groups; there are more users than a user may know of.
pub(super) fn roles(shared: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let mut names: Vec<(&str, bool, bool)> =
        GROUPS.iter().map(|g| (*g, *g == "admin", false)).collect();
    if let Some(facts) = facts {
        names.retain(|(name, ..)| *name != facts.user);
        names.push((&facts.user, facts.role == "admin", true));
    }
    let row = |(name, admin, login): (&str, bool, bool)| -> Row {
        vec![
            ("oid", role_oid(shared, facts, name).into()),
            ("rolname", name.into()),
            ("rolsuper", admin.into()),
            ("rolinherit", true.into()),
            ("rolcreaterole", admin.into()),
            ("rolcreatedb", false.into()),
            ("rolcanlogin", login.into()),
            ("rolconnlimit", Cell::Int(-1)),
        ]
    };
    names.into_iter().map(row).collect()
}

/// Everything belongs to whoever looks.
fn role_oid(shared: &Shared, facts: Option<&Facts>, name: &str) -> i32 {
    match facts.is_some_and(|facts| facts.user == name) {
        true => OWNER,
        false => shared.oids.of("role", name),
    }
}

/// The name of a role.
pub(super) fn role_name(shared: &Shared, facts: &Facts, oid: i32) -> Option<String> {
    if oid == OWNER {
        return Some(facts.user.clone());
    }
    let (space, name) = shared.oids.name_of(oid)?;
    (space == "role").then_some(name)
}

pub(super) fn users(_: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let Some(facts) = facts else {
        return Vec::new();
    };
    vec![vec![
        ("usename", facts.user.as_str().into()),
        ("usesysid", OWNER.into()),
        ("usesuper", (facts.role == "admin").into()),
        ("passwd", "********".into()),
    ]]
}

pub(super) fn settings(facts: Option<&Facts>) -> Vec<Row> {
    let Some(facts) = facts else {
        return Vec::new();
    };
    let row = |(name, value, why): (String, String, String)| -> Row {
        vec![
            ("name", name.into()),
            ("setting", value.as_str().into()),
            ("category", "Settings".into()),
            ("short_desc", why.into()),
            ("context", "user".into()),
            ("vartype", "string".into()),
            ("source", "session".into()),
            ("boot_val", value.as_str().into()),
            ("reset_val", value.into()),
        ]
    };
    facts.settings.all().into_iter().map(row).collect()
}

/// A connection sees itself; others' statements may quote what they judge.
pub(super) fn activity(shared: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let Some(facts) = facts else {
        return Vec::new();
    };
    let client = facts.client_addr;
    vec![vec![
        ("datid", shared.oids.of("database", &shared.database).into()),
        ("datname", facts.database.as_str().into()),
        ("pid", facts.pid.into()),
        ("usesysid", OWNER.into()),
        ("usename", facts.user.as_str().into()),
        (
            "application_name",
            facts.settings.get("application_name").ok().into(),
        ),
        (
            "client_addr",
            client.map(|addr| addr.ip().to_string()).into(),
        ),
        (
            "client_port",
            client.map(|addr| i32::from(addr.port())).into(),
        ),
        ("state", "active".into()),
        ("backend_type", "client backend".into()),
    ]]
}
