//! One frame in, one zstd frame or gzip member out, and back: contexts that live as long as their thread.
//!
//! A worker compresses thousands of frames; nothing here allocates after the first one.

use std::io;

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::zstd_safe::CParameter;

use super::codec::{Codec, FRAME_BYTES, STORED_BYTES_MAX};

/// The ten bytes before every gzip member: deflate, no name, no time, unknown system (RFC 1952).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// CRC-32 and length after every gzip member, little-endian.
const GZIP_TRAILER_BYTES: usize = 8;

/// Room for a frame at deflate's fastest level, which knows no blocks that are stored as they are and makes noise an
/// eighth longer; such a frame is then stored in blocks.
const DEFLATED_BYTES_MAX: usize = FRAME_BYTES + FRAME_BYTES / 8 + FRAME_BYTES / 64;

/// Compresses frames.
pub(super) enum Compressor {
    None,
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

/// Decompresses frames.
pub(super) enum Decompressor {
    None,
    Gzip(Decompress),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Compressor {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::None,
            Codec::Gzip(level) => Self::Gzip(Compress::new(Compression::new(level.into()), false)),
            Codec::Zstd(level) => {
                let mut zstd = zstd::bulk::Compressor::new(level.into())?;
                zstd.set_parameter(CParameter::ChecksumFlag(true))?;
                Self::Zstd(zstd)
            }
        })
    }

    /// Whether a frame is stored as it is, so that [`compress`](Self::compress) has nothing to do.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Puts the compressed `raw` into `out`, in place of what was there.
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.reserve(if matches!(self, Self::Gzip(_)) { DEFLATED_BYTES_MAX } else { STORED_BYTES_MAX });
        match self {
            Self::None => out.extend_from_slice(raw),
            Self::Zstd(zstd) => {
                zstd.compress_to_buffer(raw, out)?;
            }
            Self::Gzip(deflate) => gzip_member(deflate, raw, out)?,
        }
        Ok(())
    }
}

fn gzip_member(deflate: &mut Compress, raw: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&GZIP_HEADER);
    deflate.reset();
    if deflate.compress_vec(raw, out, FlushCompress::Finish)? != Status::StreamEnd {
        return Err(io::Error::other("deflate needs more room than its bound"));
    }
    if out.len() > STORED_BYTES_MAX - GZIP_TRAILER_BYTES {
        out.truncate(GZIP_HEADER.len());
        stored_blocks(raw, out);
    }
    let mut crc = Crc::new();
    crc.update(raw);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(())
}

/// `raw` as deflate blocks that are not compressed (RFC 1951, 3.2.4).
fn stored_blocks(raw: &[u8], out: &mut Vec<u8>) {
    let mut blocks = raw.chunks(u16::MAX.into()).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
}

impl Decompressor {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::None,
            Codec::Gzip(_) => Self::Gzip(Decompress::new(false)),
            Codec::Zstd(_) => Self::Zstd(zstd::bulk::Decompressor::new()?),
        })
    }

    /// Whether a frame is stored as it is, so that it can be read in place.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Fills the whole of `raw` from `stored`, or says what is wrong. Never writes beyond `raw`.
    pub(super) fn decompress(&mut self, stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
        match self {
            Self::None if stored.len() == raw.len() => raw.copy_from_slice(stored),
            Self::None => return Err("a frame that is not compressed has two lengths".to_owned()),
            Self::Zstd(zstd) => match zstd.decompress_to_buffer(stored, raw) {
                Ok(len) if len == raw.len() => {}
                Ok(_) => return Err("the frame is shorter than the manifest says".to_owned()),
                Err(cause) => return Err(format!("the frame does not decompress: {cause}")),
            },
            Self::Gzip(inflate) => gunzip_member(inflate, stored, raw)?,
        }
        Ok(())
    }
}

fn gunzip_member(inflate: &mut Decompress, stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
    let malformed = || "the frame is not a gzip member of this format".to_owned();
    let body = stored.strip_prefix(&GZIP_HEADER).ok_or_else(malformed)?;
    let (body, trailer) = body.split_last_chunk::<GZIP_TRAILER_BYTES>().ok_or_else(malformed)?;
    inflate.reset(false);
    let status = inflate
        .decompress(body, raw, FlushDecompress::Finish)
        .map_err(|cause| format!("the frame does not decompress: {cause}"))?;
    let whole = status == Status::StreamEnd && inflate.total_in() == body.len() as u64;
    if !whole || inflate.total_out() != raw.len() as u64 {
        return Err("the frame is not as long as the manifest says".to_owned());
    }
    let mut crc = Crc::new();
    crc.update(raw);
    if trailer[..4] != crc.sum().to_le_bytes() || trailer[4..] != crc.amount().to_le_bytes() {
        return Err("the frame's CRC-32 is wrong".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no codec makes smaller.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn a_full_frame_of_noise_fits_its_bound_and_comes_back() {
        let raw = noise(FRAME_BYTES);
        let gzip = (1..=9).map(Codec::Gzip);
        for codec in gzip.chain([Codec::None, Codec::Zstd(1), Codec::Zstd(19)]) {
            let mut out = Vec::new();
            let mut compressor = Compressor::new(codec).unwrap();
            compressor.compress(&raw, &mut out).unwrap();
            let first = out.clone();
            compressor.compress(&raw, &mut out).unwrap();
            assert_eq!(first, out, "a context that was used gives the same bytes");
            assert!(out.len() <= STORED_BYTES_MAX);
            let mut back = vec![0; raw.len()];
            Decompressor::new(codec).unwrap().decompress(&out, &mut back).unwrap();
            assert!(back == raw);
        }
    }

    #[test]
    fn a_frame_of_another_length_is_refused() {
        for codec in [Codec::None, Codec::Gzip(6), Codec::Zstd(1)] {
            let mut out = Vec::new();
            Compressor::new(codec).unwrap().compress(&[7; 1000], &mut out).unwrap();
            let mut decompressor = Decompressor::new(codec).unwrap();
            for len in [0, 999, 1001] {
                assert!(decompressor.decompress(&out, &mut vec![0; len]).is_err(), "{codec:?} {len}");
            }
            assert!(decompressor.decompress(&out[..out.len() - 1], &mut [0; 1000]).is_err());
            out.push(0);
            assert!(decompressor.decompress(&out, &mut [0; 1000]).is_err());
        }
    }
}
