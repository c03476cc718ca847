//! Partition keys, and the partition a key goes to (murmur2, as the Java and JavaScript clients hash).

use crate::ids::{GameId, UserId};

/// The key of everything that belongs to one player: `gameId:userId`.
pub fn player_key(game: &GameId, user: &UserId) -> String {
    let mut key = String::with_capacity(game.as_str().len() + 1 + user.as_str().len());
    key.push_str(game.as_str());
    key.push(':');
    key.push_str(user.as_str());
    key
}

/// The key of a thing that belongs to no player: `gameId:!kind:id`.
pub fn thing_key(game: &GameId, kind: &str, id: &str) -> String {
    format!("{game}:!{kind}:{id}")
}

/// The partition of `key` among `partitions`: `toPositive(murmur2(key)) % partitions`.
///
/// `partitions` below 1 counts as 1.
pub fn partition_for(key: &[u8], partitions: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    positive % partitions.max(1)
}

/// The 32-bit murmur2 of Kafka's clients (seed 0x9747b28c).
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let tail = words.remainder();
    if tail.len() >= 3 {
        h ^= u32::from(tail[2]) << 16;
    }
    if tail.len() >= 2 {
        h ^= u32::from(tail[1]) << 8;
    }
    if let Some(&first) = tail.first() {
        h ^= u32::from(first);
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hashes_as_the_java_client_does() {
        // The vectors of Apache Kafka's own UtilsTest.
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (text, expected) in vectors {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }
}
