//! The hash chain over a stream: what the writer sent and what a reader received are the same records in the same
//! order exactly if their chains agree.
//!
//! `chain(0) = 0`, `chain(n + 1) = XXH3-64(body of record n, seed = chain(n))`.

use twox_hash::XxHash3_64;

/// Records folded so far, and the chain over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    pub records: u64,
    pub hash: u64,
}

impl Chain {
    pub fn push(&mut self, body: &[u8]) {
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, body);
        self.records += 1;
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x} over {} records", self.hash, self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bodies: &[&str]) -> Chain {
        let mut chain = Chain::default();
        bodies.iter().for_each(|body| chain.push(body.as_bytes()));
        chain
    }

    #[test]
    fn order_and_boundaries_count() {
        let chain = of(&["a", "b", "c"]);
        assert_eq!(chain, of(&["a", "b", "c"]));
        for other in [
            of(&["a", "c", "b"]),
            of(&["a", "b"]),
            of(&["ab", "", "c"]),
            of(&["a", "b", "b", "c"]),
        ] {
            assert_ne!(chain, other);
        }
    }

    #[test]
    fn the_chain_of_one_record_is_its_plain_hash() {
        // XXH3-64 of nothing with seed 0, as its specification's own tests have it.
        assert_eq!(of(&[""]).hash, 0x2d06_8005_38d3_94c2);
    }
}
