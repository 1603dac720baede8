//! Scripts: SQL with lines for the command line between the statements.
//!
//! Takes a script and a closure that says whether SQL ends inside a statement; gives the pieces in order. A line that
//! begins with a backslash is a command of its own where a statement could begin, and part of the statement elsewhere
//! (in a text, say). Knows nothing of what the commands do.

/// A part of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Statements, whole ones except perhaps the last of the script.
    Sql(String),
    /// A line that begins with a backslash, trimmed.
    Command(String),
}

/// Cuts a script; pieces of white space are left out.
pub(super) fn cut(script: &str, is_incomplete: impl Fn(&str) -> bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut sql = String::new();
    // Some editors begin a file with a mark of its encoding.
    for line in script.trim_start_matches('\u{feff}').split_inclusive('\n') {
        if line.starts_with('\\') && !is_incomplete(&sql) {
            push(&mut pieces, &mut sql);
            pieces.push(Piece::Command(line.trim().to_owned()));
        } else {
            sql.push_str(line);
        }
    }
    push(&mut pieces, &mut sql);
    pieces
}

fn push(pieces: &mut Vec<Piece>, sql: &mut String) {
    let sql = std::mem::take(sql);
    if !sql.trim().is_empty() {
        pieces.push(Piece::Sql(sql));
    }
}

/// What a backslash line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// `\q`
    Quit,
    /// `\?`
    Help,
    /// `\d`, `\d NAME`
    Describe(Option<String>),
    /// `\x`
    Expanded,
    /// `\echo TEXT`
    Echo(String),
    /// Anything else: the command as typed.
    Unknown(String),
}

/// Reads a backslash line. Like psql, it takes no notice of a semicolon at the end.
pub(super) fn ask(line: &str) -> Ask {
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let name = rest.trim_end_matches(';').trim_end();
    match command.trim_end_matches(';') {
        "\\q" | "\\quit" => Ask::Quit,
        "\\?" | "\\h" | "\\help" => Ask::Help,
        "\\d" | "\\dt" | "\\d+" => Ask::Describe((!name.is_empty()).then(|| name.to_owned())),
        "\\x" => Ask::Expanded,
        "\\echo" => Ask::Echo(rest.to_owned()),
        other => Ask::Unknown(other.to_owned()),
    }
}

/// What `\?` says.
pub(super) const HELP: &str = r"\d         list tables
\d NAME    list the columns of a table
\x         turn drawing of one column a line on or off
\echo TEXT write a text
\?         this list
\q         quit
Statements end with a semicolon. Ctrl-C stops a statement.";

/// The query behind `\d`.
pub(super) fn describe(name: Option<&str>) -> String {
    let Some(name) = name else {
        return "SELECT table_schema AS \"Schema\", table_name AS \"Name\", table_type AS \"Type\" \
                FROM information_schema.tables WHERE table_schema <> 'information_schema' ORDER BY 1, 2"
            .to_owned();
    };
    let literal = |word: &str| format!("'{}'", word.trim_matches('"').replace('\'', "''"));
    let place = match name.rsplit_once('.') {
        Some((schema, table)) => format!(
            "table_schema = {} AND table_name = {}",
            literal(schema),
            literal(table)
        ),
        None => format!("table_name = {}", literal(name)),
    };
    format!(
        "SELECT column_name AS \"Column\", data_type AS \"Type\", is_nullable AS \"Nullable\" \
         FROM information_schema.columns WHERE {place} ORDER BY table_schema, ordinal_position"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough of SQL for these cases: quotes count, a semicolon ends.
    fn is_incomplete(sql: &str) -> bool {
        let mut quoted = false;
        let mut open = false;
        for c in sql.chars() {
            match c {
                '\'' => (quoted, open) = (!quoted, true),
                ';' if !quoted => open = false,
                c => open |= !c.is_whitespace(),
            }
        }
        open
    }

    #[test]
    fn scripts_are_cut_at_backslash_lines_outside_statements() {
        let sql = |sql: &str| Piece::Sql(sql.to_owned());
        let command = |line: &str| Piece::Command(line.to_owned());
        let cases = [
            ("", vec![]),
            ("\n \n", vec![]),
            ("SELECT 1", vec![sql("SELECT 1")]),
            (
                "\u{feff}\\echo one\nSELECT 1;\nSELECT\n2;\n\\echo two \r\nSELECT 3",
                vec![
                    command("\\echo one"),
                    sql("SELECT 1;\nSELECT\n2;\n"),
                    command("\\echo two"),
                    sql("SELECT 3"),
                ],
            ),
            (
                "SELECT 'a\n\\echo b\n';\n\\q",
                vec![sql("SELECT 'a\n\\echo b\n';\n"), command("\\q")],
            ),
            ("SELECT 1\n\\x\n;", vec![sql("SELECT 1\n\\x\n;")]),
            (" \\x", vec![sql(" \\x")]),
        ];
        for (script, expected) in cases {
            assert_eq!(cut(script, is_incomplete), expected, "{script:?}");
        }
    }

    #[test]
    fn backslash_lines_are_read() {
        let cases = [
            ("\\q", Ask::Quit),
            ("\\q;", Ask::Quit),
            ("\\?", Ask::Help),
            ("\\d", Ask::Describe(None)),
            ("\\d verdicts;", Ask::Describe(Some("verdicts".to_owned()))),
            ("\\x", Ask::Expanded),
            ("\\echo", Ask::Echo(String::new())),
            ("\\echo  a  b; ", Ask::Echo("a  b;".to_owned())),
            ("\\echoing", Ask::Unknown("\\echoing".to_owned())),
            ("\\", Ask::Unknown("\\".to_owned())),
        ];
        for (line, expected) in cases {
            assert_eq!(ask(line), expected, "{line:?}");
        }
    }

    #[test]
    fn names_are_put_into_the_query_as_texts() {
        let cases = [
            ("t", "WHERE table_name = 't' ORDER"),
            ("o'x", "WHERE table_name = 'o''x' ORDER"),
            (
                "safeguard.\"Labels\"",
                "WHERE table_schema = 'safeguard' AND table_name = 'Labels' ORDER",
            ),
        ];
        for (name, expected) in cases {
            let sql = describe(Some(name));
            assert!(sql.contains(expected), "{sql}");
        }
    }
}
