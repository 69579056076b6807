//! What an operator can choose for a donor run, as types that hold nothing else.

/// How the files are to be held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// Clone what can be cloned, copy the rest ahead.
    Auto,
    /// Clone; what cannot be cloned is copied inside the window.
    Clone,
    /// Copy ahead, and inside the window what changed since.
    Precopy,
    /// Copy inside the window.
    Locked,
}

/// When the node may join its cluster again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// When the backup is stored.
    Stored,
    /// When its files are held as clones: a later failure is not told to the cluster.
    Held,
}

/// A reserve that is a part of the data is at least so many bytes, or as many as the data have.
const LEAST_RESERVE: u64 = 1 << 30;

/// Free space that a clone should find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// This part of the data, in percent.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// How the kernel ranks the reads and writes of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoNice {
    /// As it is.
    None,
    /// Only when nobody else wants the disk.
    Idle,
    /// From 0, the most urgent, to 7.
    BestEffort(u8),
}

impl SourceChoice {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "clone" => Some(Self::Clone),
            "precopy" => Some(Self::Precopy),
            "locked" => Some(Self::Locked),
            _ => None,
        }
    }
}

impl Release {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "stored" => Some(Self::Stored),
            "held" => Some(Self::Held),
            _ => None,
        }
    }
}

impl Reserve {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => bytes(text).map(Self::Bytes),
        }
    }

    /// The reserve for so many bytes of data. A part of little data is too little for the time in which nobody looks.
    pub fn of(self, data: u64) -> u64 {
        match self {
            Self::Percent(percent) => (data / 100 * u64::from(percent)).max(data.min(LEAST_RESERVE)),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl IoNice {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "idle" => Some(Self::Idle),
            _ => {
                let level = text.strip_prefix("best-effort:")?.parse().ok();
                level.filter(|level| *level <= 7).map(Self::BestEffort)
            }
        }
    }
}

/// A number with K, M, G or T behind it, which are powers of 1024.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        let cases =
            [("0", Some(0)), ("512", Some(512)), ("2K", Some(2048)), ("1G", Some(1 << 30)), ("3t", Some(3 << 40))];
        for (text, size) in cases {
            assert_eq!(bytes(text), size, "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1GB", "99999999999999999999", "99999999999T", "1 G"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_reserve_is_a_part_or_a_size() {
        assert_eq!(Reserve::parse("5%").unwrap().of(100 << 30), 5 << 30);
        assert_eq!(Reserve::parse("5%").unwrap().of(10 << 30), 1 << 30);
        assert_eq!(Reserve::parse("5%").unwrap().of(2000), 2000);
        assert_eq!(Reserve::parse("10G").unwrap().of(2000), 10 << 30);
        assert_eq!(Reserve::parse("100%").unwrap().of(u64::MAX), u64::MAX / 100 * 100);
        for text in ["101%", "%", "-5%", "5 %"] {
            assert_eq!(Reserve::parse(text), None, "{text}");
        }
    }
}
