//! Seconds since 1970 to calendar dates and back (proleptic Gregorian calendar, UTC).
//!
//! Does: the years 0 to 9999. Does not: leap seconds or time zones.
//!
//! Invariant: the two directions are inverse to each other on valid dates.

/// Seconds in a day.
const DAY: i64 = 86_400;
/// Days in 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const TO_1970: i64 = 719_468;

/// A date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    /// 1 is Sunday. Not looked at in the way back.
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    pub(super) year: u16,
}

impl DateTime {
    /// The date of a time; clamped to the years 0 to 9999.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let seconds = seconds.clamp(-62_167_219_200, 253_402_300_799);
        let days = seconds.div_euclid(DAY);
        let time = seconds.rem_euclid(DAY);
        // Years are counted from March, so that the leap day is the last of its year: the day of
        // the year then gives the month without a table, 153 days being five months.
        let from_march = days + TO_1970;
        let era = from_march.div_euclid(ERA);
        let day_of_era = from_march.rem_euclid(ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = (march_month + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        DateTime {
            second: (time % 60) as u8,
            minute: (time / 60 % 60) as u8,
            hour: (time / 3600) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            month: month as u8,
            year: year as u16,
        }
    }

    /// The time of a date; `None` if there is no such date.
    pub(super) fn to_seconds(self) -> Option<i64> {
        let in_range = self.second < 60
            && self.minute < 60
            && self.hour < 24
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.year < 10_000;
        if !in_range {
            return None;
        }
        let month = i64::from(self.month);
        let year = i64::from(self.year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - TO_1970;
        let time =
            (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        let seconds = days * DAY + time;
        // A day that its month does not have comes back as another.
        let back = DateTime::from_seconds(seconds);
        (back.day == self.day && back.month == self.month).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let date = |seconds| {
            let t = DateTime::from_seconds(seconds);
            (
                t.year, t.month, t.day, t.hour, t.minute, t.second, t.weekday,
            )
        };
        assert_eq!(date(0), (1970, 1, 1, 0, 0, 0, 5));
        assert_eq!(date(951_782_399), (2000, 2, 28, 23, 59, 59, 2));
        assert_eq!(date(951_782_400), (2000, 2, 29, 0, 0, 0, 3));
        assert_eq!(date(1_000_000_000), (2001, 9, 9, 1, 46, 40, 1));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 0, 0, 0, 2));
        assert_eq!(date(-1), (1969, 12, 31, 23, 59, 59, 4));
        assert_eq!(date(i64::MAX), (9999, 12, 31, 23, 59, 59, 6));
    }

    #[test]
    fn there_and_back() {
        let mut seconds = -62_167_219_200;
        while seconds < 253_402_300_799 {
            assert_eq!(DateTime::from_seconds(seconds).to_seconds(), Some(seconds));
            seconds += 86_399 * 37;
        }
    }

    #[test]
    fn dates_that_do_not_exist() {
        let good = DateTime::from_seconds(1_709_164_800);
        assert_eq!((good.month, good.day), (2, 29));
        assert_eq!(DateTime { year: 2023, ..good }.to_seconds(), None);
        assert_eq!(DateTime { month: 13, ..good }.to_seconds(), None);
        assert_eq!(DateTime { day: 0, ..good }.to_seconds(), None);
        assert_eq!(DateTime { hour: 24, ..good }.to_seconds(), None);
    }
}
