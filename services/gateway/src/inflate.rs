//! Unpacks gzip, never further than allowed.

use std::io::Read;

use bm_web::{ApiError, Code};
use flate2::read::MultiGzDecoder;

/// The unpacked bytes; more than `limit` of them are refused while unpacking (413), and what is
/// not gzip from its first to its last byte is refused too (400).
pub fn gunzip(packed: &[u8], limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut unpacked = Vec::with_capacity(packed.len().saturating_mul(4).min(limit));
    let more_than_allowed = limit as u64 + 1;
    MultiGzDecoder::new(packed)
        .take(more_than_allowed)
        .read_to_end(&mut unpacked)
        .map_err(|_| ApiError::with(Code::MalformedJson, "Body is not valid gzip"))?;
    if unpacked.len() > limit {
        return Err(too_large(limit));
    }
    Ok(unpacked)
}

/// 413, saying what is allowed.
pub fn too_large(limit: usize) -> ApiError {
    ApiError::with(
        Code::TooLarge,
        format!("Body must be at most {} KiB", limit / 1024),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn code(packed: &[u8], limit: usize) -> Code {
        gunzip(packed, limit).unwrap_err().code()
    }

    #[test]
    fn what_fits_is_unpacked_in_one_or_several_members() {
        assert_eq!(gunzip(&gzip(b"hello"), 5).unwrap(), b"hello");
        let two = [gzip(b"hel"), gzip(b"lo")].concat();
        assert_eq!(gunzip(&two, 5).unwrap(), b"hello");
    }

    #[test]
    fn a_bomb_is_refused_while_unpacking() {
        let bomb = gzip(&vec![b' '; 50_000_000]);
        assert!(bomb.len() < 60_000);
        assert_eq!(code(&bomb, 65_536), Code::TooLarge);
        let many = gzip(&vec![0; 60_000]).repeat(200);
        assert_eq!(code(&many, 65_536), Code::TooLarge);
    }

    #[test]
    fn what_is_not_gzip_to_its_end_is_refused() {
        let whole = gzip(b"hello");
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        for bad in [
            b"".as_slice(),
            b"hello",
            &whole[..whole.len() - 1],
            &[whole.as_slice(), b"x"].concat(),
            &flipped,
        ] {
            assert_eq!(code(bad, 65_536), Code::MalformedJson, "{bad:?}");
        }
    }
}
