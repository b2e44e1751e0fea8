//! Guest-physical addresses, I/O ports and interrupt pins of the machine.
//!
//! Does: name them, in one place, for tables, loaders and the board. Lengths are in bytes.
//! Does not: decode accesses.
//!
//! Invariant: no two ranges overlap, and none of the fixed ones lies in RAM that the guest is told
//! to use, except what the boot protocol hands over (below 640 KiB).

/// Global descriptor table at entry.
pub const GDT_START: u64 = 0x500;
/// Interrupt descriptor table at entry: one empty gate.
pub const IDT_START: u64 = 0x520;
/// PVH start info.
pub const PVH_INFO_START: u64 = 0x6000;
/// PVH module list.
pub const PVH_MODULES_START: u64 = 0x6040;
/// PVH memory map.
pub const PVH_MEMORY_MAP_START: u64 = 0x7000;
/// Zero page (`struct boot_params`) of the Linux boot protocol.
pub const ZERO_PAGE_START: u64 = 0x7000;
/// Stack pointer at entry.
pub const BOOT_STACK: u64 = 0x8FF0;
/// Kernel command line.
pub const COMMAND_LINE_START: u64 = 0x2_0000;
/// Longest command line, its final NUL included.
pub const COMMAND_LINE_CAPACITY: usize = 64 * 1024;
/// End of the RAM below the legacy video range.
pub const BASE_RAM_END: u64 = 0xA_0000;
/// ACPI root pointer; the other tables follow it.
pub const RSDP_START: u64 = 0xA_0000;
/// SMBIOS entry point, then its tables. Linux looks for it on 16-byte boundaries from here.
pub const SMBIOS_START: u64 = 0xF_0000;
/// End of the SMBIOS range, and start of the RAM that holds the kernel.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// End of the RAM below 4 GiB, and start of the 32-bit PCI MMIO window.
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// 32-bit PCI MMIO window.
pub const PCI_MMIO32_START: u64 = LOW_RAM_END;
/// Length of the 32-bit PCI MMIO window (640 MiB).
pub const PCI_MMIO32_LENGTH: u64 = 640 << 20;
/// PCI configuration space, memory-mapped.
pub const ECAM_START: u64 = 0xE800_0000;
/// Length of the ECAM of a segment: one bus.
pub const ECAM_LENGTH: u64 = 1 << 20;
/// Registers of the PCI hot-plug controller.
pub const PCI_HOTPLUG_START: u64 = 0xF800_0000;
/// Length of these registers.
pub const PCI_HOTPLUG_LENGTH: u64 = 0x10;
/// I/O APIC.
pub const IOAPIC_START: u64 = 0xFEC0_0000;
/// Local APIC after a reset.
pub const LAPIC_START: u64 = 0xFEE0_0000;
/// Start of the RAM above 4 GiB.
pub const RAM64_START: u64 = 0x1_0000_0000;
/// Length of the 64-bit PCI MMIO window (64 GiB).
pub const PCI_MMIO64_LENGTH: u64 = 64 << 30;
/// Alignment of the start of the 64-bit PCI MMIO window (4 GiB).
const PCI_MMIO64_ALIGNMENT: u64 = 4 << 30;

/// Start of the 64-bit PCI MMIO window: above 4 GiB and above `ram_size` bytes of RAM.
pub fn pci_mmio64_start(ram_size: u64) -> u64 {
    (RAM64_START + ram_size.saturating_sub(LOW_RAM_END)).next_multiple_of(PCI_MMIO64_ALIGNMENT)
}

/// COM1: eight ports.
pub const COM1_PORT: u16 = 0x3F8;
/// Interrupt pin of COM1.
pub const COM1_PIN: u32 = 4;
/// System control port B.
pub const PORT_B: u16 = 0x61;
/// Keyboard controller's command port.
pub const KEYBOARD_PORT: u16 = 0x64;
/// CMOS index port; the data port follows.
pub const CMOS_PORT: u16 = 0x70;
/// POST code port.
pub const DEBUG_PORT: u16 = 0x80;
/// Debug console port.
pub const DEBUG_CONSOLE_PORT: u16 = 0xE9;
/// ACPI reset and sleep control register.
pub const ACPI_SLEEP_PORT: u16 = 0x600;
/// ACPI event register of the generic event device.
pub const ACPI_EVENT_PORT: u16 = 0x604;
/// Interrupt pin of the generic event device.
pub const ACPI_EVENT_PIN: u32 = 5;
/// ACPI PM timer, 32 bits.
pub const PM_TIMER_PORT: u16 = 0x608;
/// PCI configuration address; the data port is 4 further.
pub const PCI_CONFIG_PORT: u16 = 0xCF8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_64_bit_window_is_above_ram() {
        assert_eq!(pci_mmio64_start(512 << 20), 4 << 30);
        assert_eq!(pci_mmio64_start(3 << 30), 4 << 30);
        assert_eq!(pci_mmio64_start((3 << 30) + 4096), 8 << 30);
        assert_eq!(pci_mmio64_start(7 << 30), 8 << 30);
        assert_eq!(pci_mmio64_start(16 << 30), 20 << 30);
    }

    #[test]
    fn ranges_below_4_gib_do_not_overlap() {
        let ranges = [
            (PCI_MMIO32_START, PCI_MMIO32_LENGTH),
            (ECAM_START, ECAM_LENGTH),
            (PCI_HOTPLUG_START, PCI_HOTPLUG_LENGTH),
            (IOAPIC_START, 4096),
            (LAPIC_START, 4096),
            (RAM64_START, 0),
        ];
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }
}
