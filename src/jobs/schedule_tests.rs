//! Schedules against an oracle that reads the documented rules anew: minute by minute, by looking.

use super::*;
use std::collections::{BTreeSet, HashMap};

/// 2026-01-01T00:00Z in minutes; a Thursday.
const YEAR: i64 = 29_453_760;
/// Minutes of that year.
const MINUTES: i64 = 365 * DAY;

fn fields(text: &str) -> Fields {
    match Schedule::parse(text) {
        Ok(Schedule::Fields(fields)) => fields,
        other => panic!("{text}: {other:?}"),
    }
}

/// What a wall clock shows at every minute of the year and three hours before it: text `YYYY-MM-DD HH:MM`, by looking
/// at the zone alone.
struct Clock {
    /// From [`YEAR`] less three hours on.
    shows: Vec<NaiveDateTime>,
}

const BEFORE: i64 = 180;

impl Clock {
    fn new(zone: Tz) -> Clock {
        let minutes = YEAR - BEFORE..YEAR + MINUTES;
        let shows = minutes.map(|minute| {
            let utc = DateTime::from_timestamp(minute * 60, 0).unwrap();
            utc.with_timezone(&zone).naive_local()
        });
        Clock {
            shows: shows.collect(),
        }
    }
}

/// A schedule as the manual describes it: sets of numbers, and which fields begin with a star.
struct Oracle {
    sets: [BTreeSet<u32>; 5],
    last: bool,
    star: [bool; 5],
}

impl Oracle {
    fn new(text: &str) -> Oracle {
        let words: Vec<&str> = text.split(' ').collect();
        let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
        let named = |word: &str, at: usize| -> u32 {
            let names: &[&str] = match at {
                3 => &[
                    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV",
                    "DEC",
                ],
                4 => &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
                _ => &[],
            };
            let upper = word.to_uppercase();
            match names.iter().position(|name| *name == upper) {
                Some(place) => place as u32 + u32::from(at == 3),
                None => word.parse().unwrap(),
            }
        };
        let mut sets: [BTreeSet<u32>; 5] = Default::default();
        for (at, word) in words.iter().enumerate() {
            for part in word.split(',').filter(|part| *part != "$") {
                let (range, step) = part.split_once('/').unwrap_or((part, "1"));
                let (low, high) = match range.split_once('-') {
                    _ if range == "*" => bounds[at],
                    Some((low, high)) => (named(low, at), named(high, at)),
                    None => (named(range, at), named(range, at)),
                };
                let mut value = low;
                while value <= high {
                    sets[at].insert(if at == 4 { value % 7 } else { value });
                    value += step.parse::<u32>().unwrap();
                }
            }
        }
        Oracle {
            sets,
            last: words[2] == "$",
            star: std::array::from_fn(|at| words[at].starts_with('*')),
        }
    }

    fn day(&self, shown: &NaiveDateTime) -> bool {
        let tomorrow = shown.date().succ_opt().unwrap();
        let day = self.sets[2].contains(&shown.day()) || (self.last && tomorrow.day() == 1);
        let weekday = self.sets[4].contains(&shown.weekday().num_days_from_sunday());
        let days = match self.star[2] || self.star[4] {
            true => day && weekday,
            false => day || weekday,
        };
        days && self.sets[3].contains(&shown.month())
    }

    fn matches(&self, shown: &NaiveDateTime, day: bool) -> bool {
        day && self.sets[0].contains(&shown.minute()) && self.sets[1].contains(&shown.hour())
    }

    /// Every minute of the year at which it is due, by the rules in the manual.
    fn year(&self, clock: &Clock) -> Vec<i64> {
        let follows = self.star[0] || self.star[1];
        let (mut due, mut days) = (Vec::new(), HashMap::new());
        let mut day =
            |shown: &NaiveDateTime| *days.entry(shown.date()).or_insert_with(|| self.day(shown));
        for at in BEFORE as usize..clock.shows.len() {
            let (before, shown) = (clock.shows[at - 1], clock.shows[at]);
            let step = (shown - before).num_minutes();
            let mut fires = {
                let day = day(&shown);
                self.matches(&shown, day)
            };
            if !follows {
                // The same on the clock within the last three hours.
                let seen = || clock.shows[at - BEFORE as usize..at].contains(&shown);
                if fires && seen() {
                    fires = false;
                }
                // Minutes that the clock left out.
                for left in 1..step {
                    let out = before + chrono::TimeDelta::minutes(left);
                    let day = day(&out);
                    fires |= step <= 181 && self.matches(&out, day);
                }
            }
            if fires {
                due.push(YEAR - BEFORE + at as i64);
            }
        }
        due
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn field(&mut self, low: u64, high: u64) -> String {
        let span = high - low + 1;
        let number = |random: &mut Random| low + random.below(span);
        match self.below(10) {
            0..=2 => "*".to_owned(),
            3 => format!("*/{}", 1 + self.below(span)),
            4 | 5 => number(self).to_string(),
            6 => format!("{},{},{}", number(self), number(self), number(self)),
            7 | 8 => {
                let (a, b) = (number(self), number(self));
                format!("{}-{}", a.min(b), a.max(b))
            }
            _ => {
                let (a, b) = (number(self), number(self));
                format!(
                    "{}-{}/{},{}",
                    a.min(b),
                    a.max(b),
                    1 + self.below(7),
                    number(self)
                )
            }
        }
    }

    fn schedule(&mut self) -> String {
        let (minute, hour) = (self.field(0, 59), self.field(0, 23));
        let day = match self.below(8) {
            0 => "$".to_owned(),
            _ => self.field(1, 31),
        };
        let month = match self.below(6) {
            0 => "mar,Oct-DEC".to_owned(),
            1 | 2 => self.field(1, 12),
            _ => "*".to_owned(),
        };
        let weekday = match self.below(6) {
            0 => "mon-FRI".to_owned(),
            1 => "Sun,3".to_owned(),
            2 | 3 => self.field(0, 7),
            _ => "*".to_owned(),
        };
        format!("{minute} {hour} {day} {month} {weekday}")
    }
}

/// Schedules that people write, and those around a change of clocks.
const KNOWN: [&str; 20] = [
    "* * * * *",
    "30 3 * * 6",
    "0 10 * * *",
    "0 12 $ * *",
    "0 0 $ 2 5",
    "15 2 * * *",
    "0,30 2 * * *",
    "30 1 * * *",
    "30 1-3 * * 0",
    "59 2 * mar,oct,nov sun",
    "0 3 29 3 *",
    "*/20 2 * * *",
    "5 */2 * * *",
    "0 0 29 2 *",
    "0 0 13 * 5",
    "0 0 */10 * 1-5",
    "0 0 1-7 * */2",
    "0 22-23 31 12 *",
    "0 0 31 4,6 *",
    "1-59/2 2,3 * 3,10 7",
];

/// Compares a year of these schedules in a zone; how many that were.
fn compare(texts: &[String], zone: Tz) -> usize {
    let schedules: Vec<Fields> = texts.iter().map(|text| fields(text)).collect();
    let mut due: Vec<Vec<i64>> = vec![Vec::new(); texts.len()];
    for minute in YEAR..YEAR + MINUTES {
        let moment = Moment::at(minute, zone);
        for (schedule, due) in schedules.iter().zip(&mut due) {
            if schedule.fires(&moment) {
                due.push(minute);
            }
        }
    }
    let clock = Clock::new(zone);
    for ((text, schedule), due) in texts.iter().zip(&schedules).zip(&due) {
        let want = Oracle::new(text).year(&clock);
        let differs = want.iter().zip(due).find(|(a, b)| a != b);
        let (wanted, got) = (want.len(), due.len());
        assert!(
            want == *due,
            "{zone} {text}: {differs:?} of {wanted} and {got}"
        );
        // The next time from wherever one stands, for a few places.
        for place in 0..20 {
            let from = YEAR + (place * 7_919 * 37) % (MINUTES - DAY);
            if let Some(next) = want.iter().find(|minute| **minute > from) {
                let found = schedule.next(from, zone);
                assert_eq!(found, Some(*next), "{zone} {text} after {from}");
            }
        }
    }
    texts.len()
}

#[test]
fn five_hundred_schedules_fire_for_a_year_exactly_when_the_rules_say() {
    let zones = [
        Tz::GMT,
        Tz::Europe__Berlin,
        Tz::America__New_York,
        Tz::Australia__Lord_Howe,
    ];
    let mut random = Random(2026);
    let of_zones = zones.map(|zone| {
        let mut texts: Vec<String> = KNOWN.iter().map(ToString::to_string).collect();
        texts.extend((0..105).map(|_| random.schedule()));
        (zone, texts)
    });
    let compared: usize = std::thread::scope(|scope| {
        let started = of_zones
            .each_ref()
            .map(|(zone, texts)| scope.spawn(|| compare(texts, *zone)));
        started
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(compared, 500);
}

/// Local times at which a schedule is due on the days around a change, with how far ahead of UTC that is.
fn around(text: &str, zone: Tz, from: &str, days: i64) -> String {
    let from = NaiveDateTime::parse_from_str(from, "%Y-%m-%d %H:%M").unwrap();
    let start = from.and_utc().timestamp() / 60;
    let schedule = Schedule::parse(text).unwrap();
    let (mut due, mut at) = (Vec::new(), start * MINUTE);
    while let Some(next) = schedule
        .next(at, 0, zone)
        .filter(|next| *next < (start + days * DAY) * MINUTE)
    {
        let shown = DateTime::from_timestamp(next / SECOND, 0)
            .unwrap()
            .with_timezone(&zone);
        due.push(shown.format("%d %H:%M%z").to_string());
        at = next;
    }
    due.join(" ")
}

#[test]
fn clocks_are_put_forward_and_back() {
    let berlin = Tz::Europe__Berlin;
    for (text, zone, from, days, want) in [
        // 2026-03-29 02:00 is 03:00 in Berlin.
        (
            "30 2 * * *",
            berlin,
            "2026-03-28 00:00",
            3,
            "28 02:30+0100 29 03:00+0200 30 02:30+0200",
        ),
        (
            "0,30 2 * * *",
            berlin,
            "2026-03-29 00:00",
            1,
            "29 03:00+0200",
        ),
        (
            "30 2-3 * * *",
            berlin,
            "2026-03-29 00:00",
            1,
            "29 03:00+0200 29 03:30+0200",
        ),
        (
            "0 2,3 * * *",
            berlin,
            "2026-03-29 00:00",
            1,
            "29 03:00+0200",
        ),
        ("*/30 2 * * *", berlin, "2026-03-29 00:00", 1, ""),
        (
            "0 * * * *",
            berlin,
            "2026-03-29 00:00",
            1,
            "29 03:00+0200 29 04:00+0200 29 05:00+0200 29 06:00+0200 29 07:00+0200 29 08:00+0200 29 09:00+0200 29 10:00+0200 29 11:00+0200 29 12:00+0200 29 13:00+0200 29 14:00+0200 29 15:00+0200 29 16:00+0200 29 17:00+0200 29 18:00+0200 29 19:00+0200 29 20:00+0200 29 21:00+0200 29 22:00+0200 29 23:00+0200 30 00:00+0200 30 01:00+0200",
        ),
        // 2026-10-25 03:00 is 02:00 again.
        (
            "30 2 * * *",
            berlin,
            "2026-10-24 12:00",
            2,
            "25 02:30+0200 26 02:30+0100",
        ),
        (
            "*/30 2 * * *",
            berlin,
            "2026-10-24 12:00",
            1,
            "25 02:00+0200 25 02:30+0200 25 02:00+0100 25 02:30+0100",
        ),
        ("0 3 * * *", berlin, "2026-10-24 12:00", 1, "25 03:00+0100"),
        // Half an hour, at Lord Howe: 2026-10-04 02:00 is 02:30, 2026-04-05 02:00 is 01:30 again.
        (
            "15 2 * * *",
            Tz::Australia__Lord_Howe,
            "2026-10-03 00:00",
            1,
            "04 02:30+1100",
        ),
        (
            "45 1 * * *",
            Tz::Australia__Lord_Howe,
            "2026-04-04 00:00",
            1,
            "05 01:45+1100",
        ),
        // At midnight: 2026-04-24 00:00 is 01:00 in Cairo.
        (
            "0 0 * * *",
            Tz::Africa__Cairo,
            "2026-04-23 12:00",
            1,
            "24 01:00+0300",
        ),
        // A whole day that Samoa left out, 2011-12-30: no season, and nothing is made up for.
        ("0 12 30 12 *", Tz::Pacific__Apia, "2011-12-28 00:00", 5, ""),
    ] {
        assert_eq!(
            around(text, zone, from, days),
            want,
            "{text} in {zone} from {from}"
        );
    }
}

#[test]
fn schedules_are_read_as_pg_cron_reads_them() {
    for (text, same) in [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("  0\t0 * * 7 ", "0 0 * * sun"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * JAN-mar MON", "0 0 * 1-3 1"),
        ("0-59/1 0 * * *", "0-59 0 * * *"),
    ] {
        assert_eq!(fields(text), fields(same), "{text}");
    }
    for (text, seconds) in [
        ("1 second", 1),
        (" 30 sEcOnDs ", 30),
        ("59 seconds", 59),
        ("17  seconds ", 17),
    ] {
        assert_eq!(
            Schedule::parse(text),
            Ok(Schedule::Seconds(seconds)),
            "{text}"
        );
    }
    for text in ["@reboot", "@restart"] {
        assert_eq!(Schedule::parse(text), Ok(Schedule::Start), "{text}");
    }
    for (text, why) in [
        ("", "0 fields, not 5"),
        ("* * * *", "4 fields, not 5"),
        ("* * * * * *", "6 fields, not 5"),
        ("60 * * * *", "minute: \"60\" is not 0 to 59"),
        ("* 24 * * *", "hour: \"24\" is not 0 to 23"),
        ("* * 0 * *", "day of the month: \"0\" is not 1 to 31"),
        ("* * * 13 *", "month: \"13\" is not 1 to 12"),
        ("* * * * 8", "day of the week: \"8\" is not 0 to 7"),
        ("1/20 * * * *", "minute: 1/20: a step needs a range or *"),
        ("*/0 * * * *", "minute: */0: a step is a number from 1 on"),
        ("*/-1 * * * *", "minute: */-1: a step is a number from 1 on"),
        ("5-64/30 * * * *", "minute: \"64\" is not 0 to 59"),
        ("9-5 * * * *", "minute: 9-5: the range goes backward"),
        ("1,,2 * * * *", "minute: \"\" is not 0 to 59"),
        ("5#x * * * *", "minute: \"5#x\" is not 0 to 59"),
        ("0 11 $foo * *", "day of the month: \"$foo\" is not 1 to 31"),
        ("$ 11 1 * *", "minute: \"$\" is not 0 to 59"),
        (
            "0 0 * * monday",
            "day of the week: \"monday\" is not 0 to 7",
        ),
        ("@restar", "@restar is not known"),
        ("0 seconds", "seconds are 1 to 59"),
        ("60 seconds", "seconds are 1 to 59"),
        ("-1 seconds", "seconds are 1 to 59"),
        ("10000000000 seconds", "seconds are 1 to 59"),
        ("5 secondc", "2 fields, not 5"),
        ("50 seconds c", "3 fields, not 5"),
    ] {
        assert_eq!(Schedule::parse(text), Err(why.to_owned()), "{text}");
    }
    assert_eq!(
        Schedule::parse(&"a".repeat(1_001)),
        Err("longer than 1000 bytes".to_owned())
    );
}

#[test]
fn seconds_count_from_when_the_job_was_scheduled() {
    let schedule = Schedule::parse("7 seconds").unwrap();
    let since = 1_000_123;
    for (after, want) in [
        (0, 1),
        (since, 1),
        (since + 7 * SECOND - 1, 1),
        (since + 7 * SECOND, 2),
        (since + 700 * SECOND, 101),
    ] {
        let next = schedule.next(after, since, Tz::GMT);
        assert_eq!(next, Some(since + want * 7 * SECOND), "{after}");
    }
    // A schedule that no calendar has.
    assert_eq!(
        Schedule::parse("0 0 30 2 *").unwrap().next(0, 0, Tz::GMT),
        None
    );
    assert_eq!(Schedule::Start.next(0, 0, Tz::GMT), None);
    // The 29th of February on a Thursday, both needed: 2052 after 2024.
    let rare = Schedule::parse("0 0 */28 2 4").unwrap();
    assert!(rare.next((YEAR + MINUTES) * MINUTE, 0, Tz::GMT).is_some());
}
