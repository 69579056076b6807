//! Where the members of the tar stream lie in frames: arithmetic without any input or output.
//!
//! Every length here is a multiple of a tar block, and so is a frame: a block never straddles two frames.

use super::codec::FRAME_BYTES;

/// Tar counts in blocks of 512 bytes.
pub(super) const BLOCK: usize = 512;

/// Two blocks of zeroes end a tar stream.
pub(super) const END_BYTES: usize = 2 * BLOCK;

const _: () = assert!(FRAME_BYTES.is_multiple_of(BLOCK));

/// Where a member goes when the open frame holds `fill` bytes already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Header and contents go into the open frame.
    Here,
    /// Header and contents go into a new frame.
    Next,
    /// The header goes into the open frame, the contents begin a new one.
    Apart,
    /// The header begins a frame, the contents begin the one after it.
    NextApart,
}

/// The place of a member whose headers take `header` bytes and whose contents are `size` bytes.
///
/// A file of a frame or more begins a frame; a smaller one never straddles two.
pub(super) fn place(fill: usize, header: usize, size: u64) -> Place {
    let whole = usize::try_from(size).ok().filter(|size| *size < FRAME_BYTES).map(|size| header + padded(size));
    match whole {
        Some(whole) if fill + whole <= FRAME_BYTES => Place::Here,
        Some(whole) if whole <= FRAME_BYTES => Place::Next,
        _ if fill + header <= FRAME_BYTES => Place::Apart,
        _ => Place::NextApart,
    }
}

/// `len` rounded up to whole blocks.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_files_share_a_frame_and_large_ones_begin_one() {
        assert_eq!(place(0, 512, 0), Place::Here);
        assert_eq!(place(FRAME_BYTES - 1024, 512, 512), Place::Here);
        assert_eq!(place(FRAME_BYTES - 1024, 512, 513), Place::Next);
        assert_eq!(place(512, 512, FRAME_BYTES as u64), Place::Apart);
        assert_eq!(place(FRAME_BYTES, 512, FRAME_BYTES as u64), Place::NextApart);
        assert_eq!(place(0, 1024, FRAME_BYTES as u64 - 512), Place::Apart, "it fits a frame only without its header");
        assert_eq!(place(0, 512, u64::MAX), Place::Apart);
    }

    proptest! {
        #[test]
        fn no_file_below_a_frame_straddles_two(
            blocks in 0..=FRAME_BYTES / BLOCK,
            headers in 1..4usize,
            size in 0..FRAME_BYTES as u64,
        ) {
            let (fill, header) = (blocks * BLOCK, headers * BLOCK);
            let begin = match place(fill, header, size) {
                Place::Here => fill + header,
                Place::Next => header,
                Place::Apart | Place::NextApart => 0,
            };
            prop_assert!(begin + padded(size as usize) <= FRAME_BYTES);
        }
    }
}
