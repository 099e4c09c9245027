//! What each written form accepts, refuses and writes back.

use proptest::prelude::*;

use super::*;

fn period(text: &str) -> Result<Duration, Unfit> {
    text.parse::<Period>().map(|p| p.0)
}

#[test]
fn durations_are_numbers_with_units() {
    assert_eq!(period("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(period("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(period("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(period("1h"), Ok(Duration::from_hours(1)));
    assert_eq!(period("0"), Ok(Duration::ZERO));
    assert_eq!("0".parse::<Period>().unwrap().limit(), None);
    for wrong in ["", "5", "5 s", "s", "-1s", "1.5s", "5min", "99999999999999999999s", "4000d"] {
        assert!(period(wrong).is_err(), "{wrong} was accepted");
    }
    assert!(period("5").unwrap_err().what.contains("no unit"));
}

#[test]
fn sizes_are_numbers_with_binary_units() {
    assert_eq!("64KiB".parse(), Ok(ByteSize(65_536)));
    assert_eq!("32MiB".parse(), Ok(ByteSize(32 << 20)));
    assert_eq!("512B".parse(), Ok(ByteSize(512)));
    for wrong in ["", "64", "64KB", "KiB", "1.5MiB", "99999999999GiB"] {
        assert!(wrong.parse::<ByteSize>().is_err(), "{wrong} was accepted");
    }
}

#[test]
fn listen_addresses_name_a_socket_or_a_folder() {
    for right in ["0.0.0.0:6432", "[::]:6432", "localhost:6432", "unix:/run/pgweir"] {
        assert!(right.parse::<ListenAddress>().is_ok(), "{right} was refused");
    }
    for wrong in ["0.0.0.0", "6432", ":6432", "unix:run", "db.internal:5432", "0.0.0.0:99999"] {
        assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong} was accepted");
    }
}

#[test]
fn a_network_that_says_more_than_it_seems_is_refused() {
    assert!("10.0.0.0/8".parse::<Network>().is_ok());
    assert!("127.0.0.1".parse::<Network>().is_ok());
    let unfit = "10.1.2.3/8".parse::<Network>().unwrap_err();
    assert!(unfit.remedy.contains("10.0.0.0/8"), "{unfit}");
    assert!("10.0.0.0/33".parse::<Network>().is_err());
}

proptest! {
    #[test]
    fn durations_are_written_as_they_are_read(millis in 0..315_360_000_000_u64) {
        let period = Period::millis(millis);
        prop_assert_eq!(period.to_string().parse(), Ok(period));
    }

    #[test]
    fn sizes_are_written_as_they_are_read(bytes: u64) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }

    #[test]
    fn no_text_panics(text: String) {
        for format in ["period", "size", "listen-address", "address", "network", "ca", "glob"] {
            let _ = fits_format(format, &text);
        }
    }
}
