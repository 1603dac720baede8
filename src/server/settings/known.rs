//! PostgreSQL's settings that this server knows: names, defaults, what each takes, who may set it.

use super::SERVER_VERSION;
use crate::server::failure::Failure;

/// Who may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    User,
    /// Admins.
    Admin,
    /// The server's start.
    Server,
    /// Nobody.
    Internal,
}

/// What it takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    Bool,
    /// One of these words; the server acts on all or on none of them.
    Words(&'static [&'static str]),
    /// A whole number from .. to.
    Int(i64, i64),
    Real(f64, f64),
    /// Milliseconds.
    Millis(i64, i64),
    /// kB.
    Kilobytes(i64, i64),
    Text,
    /// Names with commas between.
    Names,
    Zone,
    DateStyle,
    Encoding,
    /// The only word of PostgreSQL's that this server can obey, and the others.
    Only(&'static str, &'static [&'static str]),
}

/// A setting.
#[derive(Debug)]
pub(super) struct Known {
    pub name: &'static str,
    pub default: &'static str,
    pub takes: Takes,
    pub access: Access,
    /// Clients are told of its changes (GUC_REPORT).
    pub reported: bool,
    pub description: &'static str,
}

const fn known(
    name: &'static str,
    default: &'static str,
    takes: Takes,
    description: &'static str,
) -> Known {
    Known {
        name,
        default,
        takes,
        access: Access::User,
        reported: false,
        description,
    }
}

impl Known {
    const fn by(mut self, access: Access) -> Known {
        self.access = access;
        self
    }

    const fn told(mut self) -> Known {
        self.reported = true;
        self
    }
}

const LEVELS: &[&str] = &[
    "serializable",
    "repeatable read",
    "read committed",
    "read uncommitted",
];
const MAX: i64 = 2_147_483_647;

use Access::{Admin, Internal, Server};
use Takes::{Bool, Int, Kilobytes, Millis, Names, Only, Real, Text, Words, Zone};

/// Every setting, by name.
#[rustfmt::skip]
pub(super) static KNOWN: &[Known] = &[
    known("application_name", "", Text, "Sets the application name to be reported in statistics and logs.").told(),
    known("array_nulls", "on", Bool, "Enable input of NULL elements in arrays."),
    known("backslash_quote", "safe_encoding", Words(&["safe_encoding", "on", "off"]), "Sets whether \"\\'\" is allowed in string literals."),
    known("block_size", "8192", Int(0, MAX), "Shows the size of a disk block.").by(Internal),
    known("bytea_output", "hex", Only("hex", &["escape"]), "Sets the output format for bytea."),
    known("check_function_bodies", "on", Bool, "Check routine bodies during CREATE FUNCTION and CREATE PROCEDURE."),
    known("client_encoding", "UTF8", Takes::Encoding, "Sets the client's character set encoding.").told(),
    known("client_min_messages", "notice", Words(&["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error"]), "Sets the message levels that are sent to the client."),
    known("constraint_exclusion", "partition", Words(&["partition", "on", "off"]), "Enables the planner to use constraints to optimize queries."),
    known("cursor_tuple_fraction", "0.1", Real(0.0, 1.0), "Sets the planner's estimate of the fraction of a cursor's rows that will be retrieved."),
    known("data_checksums", "off", Bool, "Shows whether data checksums are turned on for this cluster.").by(Internal),
    known("DateStyle", "ISO, MDY", Takes::DateStyle, "Sets the display format for date and time values.").told(),
    known("deadlock_timeout", "1s", Millis(1, MAX), "Sets the time to wait on a lock before checking for deadlock.").by(Admin),
    known("default_table_access_method", "heap", Text, "Sets the default table access method for new tables."),
    known("default_tablespace", "", Text, "Sets the default tablespace to create tables and indexes in."),
    known("default_text_search_config", "pg_catalog.simple", Text, "Sets default text search configuration."),
    known("default_transaction_deferrable", "off", Bool, "Sets the default deferrable status of new transactions."),
    known("default_transaction_isolation", "read committed", Words(LEVELS), "Sets the transaction isolation level of each new transaction."),
    known("default_transaction_read_only", "off", Bool, "Sets the default read-only status of new transactions.").told(),
    known("effective_cache_size", "4GB", Kilobytes(8, MAX), "Sets the planner's assumption about the total size of the data caches."),
    known("enable_bitmapscan", "on", Bool, "Enables the planner's use of bitmap-scan plans."),
    known("enable_hashagg", "on", Bool, "Enables the planner's use of hashed aggregation plans."),
    known("enable_hashjoin", "on", Bool, "Enables the planner's use of hash join plans."),
    known("enable_indexonlyscan", "on", Bool, "Enables the planner's use of index-only-scan plans."),
    known("enable_indexscan", "on", Bool, "Enables the planner's use of index-scan plans."),
    known("enable_material", "on", Bool, "Enables the planner's use of materialization."),
    known("enable_mergejoin", "on", Bool, "Enables the planner's use of merge join plans."),
    known("enable_nestloop", "on", Bool, "Enables the planner's use of nested-loop join plans."),
    known("enable_seqscan", "on", Bool, "Enables the planner's use of sequential-scan plans."),
    known("enable_sort", "on", Bool, "Enables the planner's use of explicit sort steps."),
    known("escape_string_warning", "on", Bool, "Warn about backslash escapes in ordinary string literals."),
    known("extra_float_digits", "1", Int(-15, 3), "Sets the number of digits displayed for floating-point values."),
    known("from_collapse_limit", "8", Int(1, MAX), "Sets the FROM-list size beyond which subqueries are not collapsed."),
    known("geqo", "on", Bool, "Enables genetic query optimization."),
    known("gin_fuzzy_search_limit", "0", Int(0, MAX), "Sets the maximum allowed result for exact search by GIN."),
    known("idle_in_transaction_session_timeout", "0", Millis(0, MAX), "Sets the maximum allowed idle time between queries, when in a transaction."),
    known("idle_session_timeout", "0", Millis(0, MAX), "Sets the maximum allowed idle time between queries, when not in a transaction."),
    known("in_hot_standby", "off", Bool, "Shows whether hot standby is currently active.").by(Internal).told(),
    known("integer_datetimes", "on", Bool, "Shows whether datetimes are integer based.").by(Internal).told(),
    known("IntervalStyle", "postgres", Only("postgres", &["postgres_verbose", "sql_standard", "iso_8601"]), "Sets the display format for interval values.").told(),
    known("is_superuser", "off", Bool, "Shows whether the current user is a superuser.").by(Internal).told(),
    known("jit", "off", Bool, "Allow JIT compilation."),
    known("join_collapse_limit", "8", Int(1, MAX), "Sets the FROM-list size beyond which JOIN constructs are not flattened."),
    known("lc_collate", "C", Text, "Shows the collation order locale.").by(Internal),
    known("lc_ctype", "C", Text, "Shows the character classification and case conversion locale.").by(Internal),
    known("lc_messages", "C", Only("C", &["POSIX", "en_US.UTF-8", "C.UTF-8"]), "Sets the language in which messages are displayed."),
    known("lc_monetary", "C", Text, "Sets the locale for formatting monetary amounts."),
    known("lc_numeric", "C", Text, "Sets the locale for formatting numbers."),
    known("lc_time", "C", Text, "Sets the locale for formatting date and time values."),
    known("lock_timeout", "0", Millis(0, MAX), "Sets the maximum allowed duration of any wait for a lock."),
    known("log_duration", "off", Bool, "Logs the duration of each completed SQL statement.").by(Admin),
    known("log_min_duration_statement", "-1", Millis(-1, MAX), "Sets the minimum execution time above which all statements will be logged.").by(Admin),
    known("log_min_messages", "warning", Words(&["debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "error", "log", "fatal", "panic"]), "Sets the message levels that are logged.").by(Admin),
    known("log_statement", "none", Words(&["none", "ddl", "mod", "all"]), "Sets the type of statements logged.").by(Admin),
    known("maintenance_work_mem", "64MB", Kilobytes(1024, MAX), "Sets the maximum memory to be used for maintenance operations."),
    known("max_connections", "100", Int(1, 262_143), "Sets the maximum number of concurrent connections.").by(Server),
    known("max_identifier_length", "63", Int(63, 63), "Shows the maximum identifier length.").by(Internal),
    known("max_index_keys", "32", Int(32, 32), "Shows the maximum number of index keys.").by(Internal),
    known("max_parallel_workers_per_gather", "2", Int(0, 1024), "Sets the maximum number of parallel processes per executor node."),
    known("max_prepared_transactions", "0", Int(0, 262_143), "Sets the maximum number of simultaneously prepared transactions.").by(Server),
    known("plan_cache_mode", "auto", Words(&["auto", "force_generic_plan", "force_custom_plan"]), "Controls the planner's selection of custom or generic plan."),
    known("port", "5433", Int(1, 65_535), "Sets the TCP port the server listens on.").by(Server),
    known("quote_all_identifiers", "off", Bool, "When generating SQL fragments, quote all identifiers."),
    known("random_page_cost", "4", Real(0.0, f64::MAX), "Sets the planner's estimate of the cost of a nonsequentially fetched disk page."),
    known("role", "none", Text, "Sets the current role.").by(Internal),
    known("row_security", "on", Bool, "Enable row security."),
    known("scram_iterations", "4096", Int(1, MAX), "Sets the iteration count for SCRAM secret generation.").by(Server).told(),
    known("search_path", "\"$user\", public", Names, "Sets the schema search order for names that are not schema-qualified."),
    known("server_encoding", "UTF8", Text, "Shows the server (database) character set encoding.").by(Internal).told(),
    known("server_version", SERVER_VERSION, Text, "Shows the server version.").by(Internal).told(),
    known("server_version_num", "160006", Int(0, MAX), "Shows the server version as an integer.").by(Internal),
    known("session_authorization", "", Text, "Sets the session user name.").by(Internal).told(),
    known("session_replication_role", "origin", Words(&["origin", "replica", "local"]), "Sets the session's behavior for triggers and rewrite rules.").by(Admin),
    known("ssl", "off", Bool, "Enables SSL connections.").by(Server),
    known("standard_conforming_strings", "on", Only("on", &["off"]), "Causes '...' strings to treat backslashes literally.").told(),
    known("statement_timeout", "0", Millis(0, MAX), "Sets the maximum allowed duration of any statement."),
    known("synchronize_seqscans", "on", Bool, "Enable synchronized sequential scans."),
    known("synchronous_commit", "on", Words(&["local", "remote_write", "remote_apply", "on", "off"]), "Sets the current transaction's synchronization level."),
    known("tcp_keepalives_count", "0", Int(0, MAX), "Maximum number of TCP keepalive retransmits."),
    known("tcp_keepalives_idle", "0", Int(0, MAX), "Time between issuing TCP keepalives."),
    known("tcp_keepalives_interval", "0", Int(0, MAX), "Time between TCP keepalive retransmits."),
    known("tcp_user_timeout", "0", Int(0, MAX), "TCP user timeout."),
    known("temp_buffers", "8MB", Kilobytes(800, MAX), "Sets the maximum number of temporary buffers used by each session."),
    known("temp_tablespaces", "", Names, "Sets the tablespace(s) to use for temporary tables and sort files."),
    known("TimeZone", "UTC", Zone, "Sets the time zone for displaying and interpreting time stamps.").told(),
    known("track_activities", "on", Bool, "Collects information about executing commands.").by(Admin),
    known("transaction_deferrable", "off", Bool, "Whether to defer a read-only serializable transaction until it can be executed with no possible serialization failures."),
    known("transaction_isolation", "read committed", Words(LEVELS), "Sets the current transaction's isolation level."),
    known("transaction_read_only", "off", Bool, "Sets the current transaction's read-only status."),
    known("transform_null_equals", "off", Bool, "Treats \"expr=NULL\" as \"expr IS NULL\"."),
    known("wal_level", "replica", Text, "Sets the level of information written to the WAL.").by(Server),
    known("work_mem", "4MB", Kilobytes(64, MAX), "Sets the maximum memory to be used for query workspaces."),
    known("xmlbinary", "base64", Words(&["base64", "hex"]), "Sets how binary values are to be encoded in XML."),
    known("xmloption", "content", Words(&["content", "document"]), "Sets whether XML data in implicit parsing and serialization operations is to be considered as documents or content fragments."),
];

/// Whose setting a name is; with the name as its owner spells it.
#[derive(Debug)]
pub(super) enum Namespace {
    Postgres(&'static Known),
    Session(String),
    /// Nobody's: PostgreSQL keeps such values for applications.
    Custom(String),
}

pub(super) fn unknown(name: &str) -> Failure {
    Failure::new(
        "42704",
        format!("unrecognized configuration parameter \"{name}\""),
    )
}

pub(super) fn find(name: &str) -> Result<Namespace, Failure> {
    let lower = name.to_lowercase();
    if let Some((space, _)) = lower.split_once('.') {
        if matches!(space, "safeguard" | "datafusion") {
            return Ok(Namespace::Session(lower));
        }
        let simple = |part: &str| {
            let mut letters = part.chars();
            let first = letters.next();
            first.is_some_and(|c| c.is_alphabetic() || c == '_')
                && letters.all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
        };
        if !lower.split('.').all(simple) {
            let mut failure = Failure::new(
                "42602",
                format!("invalid configuration parameter name \"{name}\""),
            );
            failure.detail = Some(
                "Custom parameter names must be two or more simple identifiers separated by dots."
                    .into(),
            );
            return Err(failure);
        }
        return Ok(Namespace::Custom(lower));
    }
    let found = KNOWN.iter().find(|k| k.name.eq_ignore_ascii_case(&lower));
    found.map(Namespace::Postgres).ok_or_else(|| unknown(name))
}

/// The default of a setting of PostgreSQL's.
pub(super) fn default_of(name: &str) -> &'static str {
    KNOWN
        .iter()
        .find(|known| known.name == name)
        .map_or("", |known| known.default)
}

/// The names of those that clients are told of.
pub(super) fn reported() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter(|k| k.reported).map(|k| k.name)
}
