//! Tables, types and functions by name and by OID.

use super::Functions;
use crate::server::catalog::Facts;
use crate::server::catalog::procs;
use crate::server::catalog::provider::{Shared, list_of};
use crate::server::catalog::relations::{PG_CATALOG, standard_name, type_name};
use crate::server::catalog::rows::{Cell, Kind};
use crate::server::failure::Failure;
use datafusion::common::Result;
use datafusion::logical_expr::Volatility::Stable;
use std::sync::Arc;

pub(super) fn define(functions: &mut Functions) {
    registered(functions);
    types(functions);
    visible(functions);
    definitions(functions);
    unknown(functions);
}

/// The parts of a name as it is written in SQL.
pub(super) fn parts(name: &str) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = name.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    parts.push(part);
    parts
}

/// The relation of this name, looked for where the connection looks.
fn relation(shared: &Shared, facts: &Facts, name: &str) -> Result<Option<i32>> {
    if let Ok(oid) = name.parse::<i32>() {
        return Ok(Some(oid));
    }
    let parts = parts(name);
    let catalog = shared.catalog()?;
    let has = |schema: &str, name: &str| {
        let found = catalog.schema(schema);
        found.is_some_and(|schema| schema.table_exist(name))
    };
    let (schemas, name) = match parts.as_slice() {
        [name] => {
            let path = facts.settings.search_path().into_iter();
            let system = (!facts.settings.search_path().iter().any(|s| s == PG_CATALOG))
                .then(|| PG_CATALOG.to_owned());
            (system.into_iter().chain(path).collect(), name)
        }
        [schema, name] | [_, schema, name] => (vec![schema.clone()], name),
        _ => return Ok(None),
    };
    let found = schemas.iter().find(|schema| match schema.as_str() {
        "information_schema" => has(PG_CATALOG, &format!("information_schema.{name}")),
        schema => has(schema, name),
    });
    Ok(found.map(|schema| match schema.as_str() {
        "information_schema" => shared
            .oids
            .relation(PG_CATALOG, &format!("information_schema.{name}")),
        schema => shared.oids.relation(schema, name),
    }))
}

/// The type of this name in any of its spellings.
fn type_of(shared: &Shared, name: &str) -> Option<i32> {
    if let Ok(oid) = name.parse::<i32>() {
        return Some(oid);
    }
    let name = name.trim();
    let (item, array) = match name.strip_suffix("[]") {
        Some(item) => (item, true),
        None => (name, false),
    };
    let item = item.strip_prefix("pg_catalog.").unwrap_or(item);
    let item = item.split('(').next().unwrap_or(item).trim();
    let lower = match item.strip_prefix('"').and_then(|i| i.strip_suffix('"')) {
        Some(quoted) => quoted.to_owned(),
        None => item.to_lowercase(),
    };
    let short = match lower.as_str() {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "real" => "float4",
        "float" | "double precision" => "float8",
        "boolean" => "bool",
        "decimal" => "numeric",
        "character varying" => "varchar",
        "character" => "bpchar",
        "char" if item.starts_with('"') => "char",
        "char" => "bpchar",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        "time with time zone" => "timetz",
        "time without time zone" => "time",
        other => other,
    };
    let short = if array {
        format!("_{short}")
    } else {
        short.to_owned()
    };
    shared.types.by_name.get(&short).copied()
}

fn format_type(shared: &Shared, oid: i32, modifier: Option<i64>) -> String {
    type_name(oid, modifier, &|oid| shared.types.by_oid.get(&oid).cloned())
}

/// A relation's name, with its schema where the connection would not find it without.
fn shown_relation(shared: &Shared, facts: &Facts, oid: i32) -> String {
    match shared.oids.name_of(oid) {
        Some((schema, name)) => {
            let (schema, name) = match name.split_once("information_schema.") {
                Some((_, name)) => ("information_schema".to_owned(), name.to_owned()),
                None => (schema, name),
            };
            let seen = schema == PG_CATALOG || facts.settings.search_path().contains(&schema);
            match seen {
                true => super::text::quote_ident(&name),
                false => format!(
                    "{}.{}",
                    super::text::quote_ident(&schema),
                    super::text::quote_ident(&name)
                ),
            }
        }
        None => oid.to_string(),
    }
}

fn missing(state: &'static str, kind: &str, name: &str) -> Failure {
    Failure::new(state, format!("{kind} \"{name}\" does not exist"))
}

/// `to_reg*`, and the casts from and to `reg*` types, which the rewriting spells as functions.
fn registered(functions: &mut Functions) {
    let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
    functions.define(
        ("to_regclass", Kind::Int4),
        1..=1,
        Stable,
        move |args, _| {
            let name = args[0].text().unwrap_or_default();
            Ok(relation(&shared, &facts, &name)?.into())
        },
    );
    let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
    functions.define(
        ("regclass_in", Kind::Int4),
        1..=1,
        Stable,
        move |args, _| {
            let name = args[0].text().unwrap_or_default();
            let found = relation(&shared, &facts, &name)?;
            Ok(found
                .ok_or_else(|| missing("42P01", "relation", &name))?
                .into())
        },
    );
    let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
    functions.define(
        ("regclass_out", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            Ok(match &args[0] {
                Cell::Text(name) => name.as_str().into(),
                oid => shown_relation(&shared, &facts, oid.int().unwrap_or(0) as i32).into(),
            })
        },
    );
    for (name, strict) in [("to_regtype", false), ("regtype_in", true)] {
        let shared = Arc::clone(&functions.shared);
        functions.define((name, Kind::Int4), 1..=1, Stable, move |args, _| {
            let name = args[0].text().unwrap_or_default();
            match type_of(&shared, &name) {
                None if strict => Err(missing("42704", "type", &name).into()),
                oid => Ok(oid.into()),
            }
        });
    }
    let shared = Arc::clone(&functions.shared);
    functions.define(
        ("regtype_out", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            Ok(match &args[0] {
                Cell::Text(name) => standard_name(name).into(),
                oid => format_type(&shared, oid.int().unwrap_or(0) as i32, None).into(),
            })
        },
    );
    for (name, strict) in [
        ("to_regproc", false),
        ("to_regprocedure", false),
        ("regproc_in", true),
    ] {
        let shared = Arc::clone(&functions.shared);
        functions.define((name, Kind::Int4), 1..=1, Stable, move |args, _| {
            let name = args[0].text().unwrap_or_default();
            if let Ok(oid) = name.parse::<i32>() {
                return Ok(oid.into());
            }
            let bare = name.split('(').next().unwrap_or_default();
            let last = parts(bare).pop().unwrap_or_default();
            match shared.procs.by_name.get(&last) {
                None if strict => Err(missing("42883", "function", &name).into()),
                oid => Ok(oid.copied().into()),
            }
        });
    }
    let shared = Arc::clone(&functions.shared);
    functions.define(
        ("regproc_out", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            Ok(match &args[0] {
                Cell::Text(name) => name.as_str().into(),
                Cell::Int(0) => "-".into(),
                oid => {
                    let oid = oid.int().unwrap_or(0) as i32;
                    let name = shared.procs.by_oid.get(&oid).cloned();
                    name.unwrap_or_else(|| oid.to_string()).into()
                }
            })
        },
    );
    namespaces(functions);
}

fn namespaces(functions: &mut Functions) {
    for (name, strict) in [("to_regnamespace", false), ("regnamespace_in", true)] {
        let shared = Arc::clone(&functions.shared);
        functions.define((name, Kind::Int4), 1..=1, Stable, move |args, _| {
            let name = args[0].text().unwrap_or_default();
            if let Ok(oid) = name.parse::<i32>() {
                return Ok(oid.into());
            }
            let name = parts(&name).pop().unwrap_or_default();
            let known = crate::server::catalog::objects::schemas(&shared)?;
            match known.contains(&name) {
                true => Ok(shared.oids.schema(&name).into()),
                false if strict => Err(missing("3F000", "schema", &name).into()),
                false => Ok(Cell::Null),
            }
        });
    }
    let shared = Arc::clone(&functions.shared);
    functions.define(
        ("regnamespace_out", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            let oid = args[0].int().unwrap_or(0) as i32;
            let name = shared.oids.name_of(oid).map(|(_, name)| name);
            Ok(name.unwrap_or_else(|| oid.to_string()).into())
        },
    );
    for (name, strict) in [("to_regrole", false), ("regrole_in", true)] {
        let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
        functions.define((name, Kind::Int4), 1..=1, Stable, move |args, _| {
            let name = args[0].text().unwrap_or_default();
            if let Ok(oid) = name.parse::<i32>() {
                return Ok(oid.into());
            }
            let roles = procs::roles(&shared, Some(&facts));
            let found = roles
                .iter()
                .find(|row| row.contains(&("rolname", name.as_str().into())));
            let oid = found.and_then(|row| row.iter().find(|(column, _)| *column == "oid"));
            match oid {
                Some((_, oid)) => Ok(oid.clone()),
                None if strict => Err(missing("42704", "role", &name).into()),
                None => Ok(Cell::Null),
            }
        });
    }
    let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
    functions.define(
        ("regrole_out", Kind::Text),
        1..=1,
        Stable,
        move |args, _| {
            let oid = args[0].int().unwrap_or(0) as i32;
            let name = procs::role_name(&shared, &facts, oid);
            Ok(name.unwrap_or_else(|| oid.to_string()).into())
        },
    );
}

fn types(functions: &mut Functions) {
    let shared = Arc::clone(&functions.shared);
    let function = functions.define(
        ("format_type", Kind::Text),
        2..=2,
        Stable,
        move |args, _| match args[0].int() {
            Some(oid) => Ok(format_type(&shared, oid as i32, args[1].int()).into()),
            None => Ok(Cell::Null),
        },
    );
    function.strict = false;
    let shared = Arc::clone(&functions.shared);
    functions.define(
        ("regtypes_out", Kind::Texts),
        1..=1,
        Stable,
        move |args, _| {
            // A vector of OIDs is a text with blanks between.
            let oids: Vec<Option<i64>> = match &args[0] {
                Cell::List(items) => items.iter().map(Cell::int).collect(),
                cell => {
                    let text = cell.text().unwrap_or_default();
                    text.split_whitespace()
                        .map(|oid| oid.parse().ok())
                        .collect()
                }
            };
            let names = oids.into_iter().map(|oid| match oid {
                Some(oid) => format_type(&shared, oid as i32, None),
                None => String::new(),
            });
            Ok(names.collect::<Vec<_>>().into())
        },
    );
    let shared = Arc::clone(&functions.shared);
    let function = functions.define(("pg_typeof", Kind::Text), 1..=1, Stable, move |_, types| {
        use datafusion::arrow::datatypes::DataType;
        if types[0] == DataType::Null {
            return Ok("unknown".into());
        }
        let (oid, ..) = crate::server::catalog::relations::pg_type(&types[0]);
        Ok(format_type(&shared, oid, None).into())
    });
    function.strict = false;
}

fn visible(functions: &mut Functions) {
    let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
    functions.define(
        ("pg_table_is_visible", Kind::Bool),
        1..=1,
        Stable,
        move |args, _| {
            let oid = args[0].int().unwrap_or(0) as i32;
            let Some((schema, name)) = shared.oids.name_of(oid) else {
                return Ok(Cell::Null);
            };
            let hidden = name.starts_with("information_schema.");
            let seen = schema == PG_CATALOG || facts.settings.search_path().contains(&schema);
            Ok((seen && !hidden).into())
        },
    );
    let names = [
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_operator_is_visible",
        "pg_opclass_is_visible",
        "pg_opfamily_is_visible",
        "pg_conversion_is_visible",
        "pg_collation_is_visible",
        "pg_ts_config_is_visible",
        "pg_ts_dict_is_visible",
        "pg_ts_parser_is_visible",
        "pg_ts_template_is_visible",
        "pg_statistics_obj_is_visible",
    ];
    functions.constant(&names, 1..=1, &true.into(), Kind::Bool);
}

fn definitions(functions: &mut Functions) {
    type Show = fn(&crate::server::catalog::functions_of::Function) -> String;
    let shows: [(&'static str, Show); 4] = [
        ("pg_get_function_arguments", |f| f.shown_arguments()),
        ("pg_get_function_identity_arguments", |f| {
            f.shown_arguments()
        }),
        ("pg_get_function_result", |f| f.shown_result()),
        ("pg_get_functiondef", |f| {
            format!(
                "CREATE OR REPLACE FUNCTION {schema}.{name}({})\n RETURNS {}\n LANGUAGE internal\nAS $function${name}$function$\n",
                f.shown_arguments(),
                f.shown_result(),
                schema = f.schema,
                name = f.name,
            )
        }),
    ];
    for (name, show) in shows {
        let shared = Arc::clone(&functions.shared);
        functions.define((name, Kind::Text), 1..=1, Stable, move |args, _| {
            let oid = args[0].int().unwrap_or(0);
            let found = shared.functions.iter().find(|f| i64::from(f.oid) == oid);
            Ok(found.map(show).into())
        });
    }
    for name in ["pg_get_viewdef", "pg_get_indexdef", "pg_get_constraintdef"] {
        let (shared, facts) = (Arc::clone(&functions.shared), Arc::clone(&functions.facts));
        functions.define((name, Kind::Text), 1..=3, Stable, move |args, _| {
            let oid = match &args[0] {
                Cell::Text(name) => relation(&shared, &facts, name)?,
                oid => oid.int().map(|oid| oid as i32),
            };
            Ok(oid.and_then(|oid| shared.oids.definition(oid)).into())
        });
    }
    let shared = Arc::clone(&functions.shared);
    functions.define(
        ("obj_description", Kind::Text),
        1..=2,
        Stable,
        move |args, _| {
            let oid = args[0].int().unwrap_or(0) as i32;
            let class = args
                .get(1)
                .and_then(Cell::text)
                .unwrap_or_else(|| "pg_proc".to_owned());
            if class == "pg_proc" {
                return Ok(procs::description(&shared, oid).into());
            }
            let class = shared.oids.relation(PG_CATALOG, &class);
            Ok(shared.descriptions.get(&(oid, class, 0)).cloned().into())
        },
    );
    functions.define(("list_in", Kind::Texts), 1..=1, Stable, |args, _| {
        Ok(list_of(&args[0]))
    });
}

/// What is unknown or not there for any object of this server.
fn unknown(functions: &mut Functions) {
    let texts = [
        "col_description",
        "shobj_description",
        "pg_get_serial_sequence",
        "pg_get_expr",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_partkeydef",
        "pg_get_partition_constraintdef",
        "pg_get_statisticsobjdef_columns",
        "pg_get_statisticsobjdef",
        "pg_get_function_sqlbody",
        "pg_get_function_arg_default",
        "pg_describe_object",
    ];
    functions.constant(&texts, 1..=3, &Cell::Null, Kind::Text);
    functions.constant(&["pg_tablespace_location"], 1..=1, &"".into(), Kind::Text);
    let numbers = [
        "pg_relation_size",
        "pg_table_size",
        "pg_total_relation_size",
        "pg_indexes_size",
        "pg_database_size",
        "pg_tablespace_size",
        "pg_stat_get_numscans",
        "pg_stat_get_live_tuples",
    ];
    functions.constant(&numbers, 1..=2, &Cell::Null, Kind::Int8);
    let no = [
        "pg_relation_is_publishable",
        "pg_relation_is_updatable",
        "pg_is_other_temp_schema",
        "row_security_active",
    ];
    functions.constant(&no, 1..=2, &false.into(), Kind::Bool);
    functions.constant(&["acldefault"], 2..=2, &Cell::Null, Kind::Texts);
    functions.constant(
        &["pg_blocking_pids"],
        1..=1,
        &Cell::List(Vec::new()),
        Kind::Int4s,
    );
}
