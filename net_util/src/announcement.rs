//! The frame by which a card tells the network where it is: a reverse ARP request for its own
//! address (RFC 903), as hypervisors send it after moving a guest.
//!
//! Does: make the frame. Does not: send it.
//!
//! Invariant: nobody answers it; every switch on the way learns the address.

use crate::mac::MacAddress;
use crate::tap::VNET_HEADER;

/// Shorter frames do not exist on Ethernet.
const FRAME_MIN: usize = 60;

/// The frame, behind an empty virtio header.
pub fn announcement(mac: MacAddress) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER];
    // To everybody, from the card; reverse ARP.
    frame.extend([0xFF; 6]);
    frame.extend(mac.0);
    frame.extend([0x80, 0x35]);
    // Ethernet and IPv4, and the lengths of their addresses; a reverse request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 3]);
    for _ in 0..2 {
        frame.extend(mac.0);
        frame.extend([0; 4]);
    }
    frame.resize(VNET_HEADER + FRAME_MIN, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_names_its_sender() {
        let frame = announcement(MacAddress([2, 1, 2, 3, 4, 5]));
        assert_eq!(frame.len(), 72);
        assert_eq!(frame[12..18], [0xFF; 6]);
        assert_eq!(frame[18..26], [2, 1, 2, 3, 4, 5, 0x80, 0x35]);
        assert_eq!(frame[34..40], [2, 1, 2, 3, 4, 5]);
    }
}
