//! Which host has an address: a table with open addressing and a fixed hash, since every
//! datagram asks and every run must find the same.

use std::net::IpAddr;

use super::host::HostId;

/// Addresses of hosts.
#[derive(Default)]
pub(super) struct AddressTable {
    /// A power of two of places, or none; at most half of them taken.
    places: Vec<Option<(IpAddr, HostId)>>,
    taken: usize,
}

impl AddressTable {
    #[inline]
    pub(super) fn get(&self, ip: IpAddr) -> Option<HostId> {
        if self.places.is_empty() {
            return None;
        }
        self.places[self.place(ip)].as_ref().map(|(_, host)| *host)
    }

    /// Addresses are never taken out: a host keeps its own for good.
    pub(super) fn insert(&mut self, ip: IpAddr, host: HostId) {
        if self.taken * 2 >= self.places.len() {
            let larger = (self.places.len() * 2).max(8);
            let old = std::mem::replace(&mut self.places, vec![None; larger]);
            for entry in old.into_iter().flatten() {
                let place = self.place(entry.0);
                self.places[place] = Some(entry);
            }
        }
        let place = self.place(ip);
        self.taken += usize::from(self.places[place].is_none());
        self.places[place] = Some((ip, host));
    }

    /// Where `ip` is, or would be.
    #[inline]
    fn place(&self, ip: IpAddr) -> usize {
        let mask = self.places.len() - 1;
        let mut place = hash(ip) & mask;
        while let Some((other, _)) = &self.places[place] {
            if *other == ip {
                break;
            }
            place = (place + 1) & mask;
        }
        place
    }
}

/// Addresses of a test count up in their last bytes: a multiplication spreads them.
#[inline]
fn hash(ip: IpAddr) -> usize {
    let bits = match ip {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    };
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn every_address_is_found_and_no_other() {
        let mut table = AddressTable::default();
        assert_eq!(table.get(Ipv4Addr::LOCALHOST.into()), None);
        let v4 = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let v6 = |n: u32| IpAddr::from(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)));
        for n in 0..5_000 {
            table.insert(v4(n), HostId(n));
            table.insert(v6(n), HostId(n + 1));
        }
        for n in 0..5_000 {
            assert_eq!(table.get(v4(n)), Some(HostId(n)));
            assert_eq!(table.get(v6(n)), Some(HostId(n + 1)));
        }
        assert_eq!(table.get(v4(5_000)), None);
        assert_eq!(table.get(v6(5_000)), None);
    }
}
