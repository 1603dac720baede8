//! Where a session's clock hangs: an IANA time zone or a fixed offset.

use crate::server::failure::Failure;
use chrono::{DateTime, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::array::timezone::Tz;
use std::str::FromStr;

/// A time zone.
#[derive(Debug, Clone, Copy, Default)]
pub enum Zone {
    /// Greenwich, without look-ups.
    #[default]
    Utc,
    /// Any other.
    Of(Tz),
}

impl Zone {
    /// By IANA name (`Europe/Berlin`, `utc`) or as an offset east of Greenwich (`+02:00`).
    ///
    /// # Errors
    /// 22023 for a zone that nobody knows.
    pub fn parse(name: &str) -> Result<Zone, Failure> {
        let name = name.trim();
        let utc = [
            "utc",
            "gmt",
            "z",
            "zulu",
            "etc/utc",
            "universal",
            "+00:00",
            "+00",
        ];
        if utc.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            return Ok(Zone::Utc);
        }
        Tz::from_str(name).map(Zone::Of).map_err(|_| {
            Failure::new(
                "22023",
                format!("invalid value for parameter \"TimeZone\": \"{name}\""),
            )
        })
    }

    /// Seconds east of Greenwich at an instant in seconds since 1970.
    pub fn offset_at(&self, instant: i64) -> i64 {
        match self {
            Zone::Utc => 0,
            Zone::Of(zone) => match DateTime::from_timestamp(instant, 0) {
                Some(at) => {
                    let offset = zone.offset_from_utc_datetime(&at.naive_utc());
                    i64::from(offset.fix().local_minus_utc())
                }
                None => 0,
            },
        }
    }

    /// The instant, in seconds since 1970, at which clocks there show `local` (seconds since 1970 as if UTC). A time that
    /// clocks skip is read with the offset before the gap; of one that they show twice the later is standard time, and
    /// meant, as in PostgreSQL.
    pub fn instant_of(&self, local: i64) -> i64 {
        let Zone::Of(zone) = self else { return local };
        let Some(at) = DateTime::from_timestamp(local, 0) else {
            return local;
        };
        let at: NaiveDateTime = at.naive_utc();
        let offset = match zone.offset_from_local_datetime(&at) {
            chrono::LocalResult::Single(offset) => i64::from(offset.fix().local_minus_utc()),
            chrono::LocalResult::Ambiguous(_, later) => i64::from(later.fix().local_minus_utc()),
            chrono::LocalResult::None => self.offset_at(local.saturating_sub(86_400)),
        };
        local.saturating_sub(offset)
    }
}
