//! What an ELF file says of a firmware: its sizes, its symbols, the stack of each function.
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use crate::call_graph::{CallGraph, Deepest};

/// Bytes by where they live.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Program, constants and the initial values of variables.
    pub flash: u64,
    /// Variables, the arena and frame buffers among them.
    pub ram: u64,
    /// The arena alone.
    pub arena: u64,
}

/// A firmware's ELF file in memory.
pub struct Firmware(Vec<u8>);

impl Firmware {
    /// Reads an ELF file.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn elf(&self) -> Result<object::File<'_>> {
        object::File::parse(&*self.0).context("not an ELF file")
    }

    /// Sizes of what the board must hold.
    pub fn sizes(&self) -> Result<Sizes> {
        let elf = self.elf()?;
        let mut sizes = Sizes::default();
        for section in elf.sections() {
            match section.kind() {
                SectionKind::Text | SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => {
                    sizes.flash += section.size()
                }
                SectionKind::Data => {
                    sizes.flash += section.size();
                    sizes.ram += section.size();
                }
                SectionKind::UninitializedData => sizes.ram += section.size(),
                _ => {}
            }
        }
        sizes.arena = elf
            .symbols()
            .filter(|s| s.kind() == SymbolKind::Data && s.name().is_ok_and(|n| n.contains("ARENA")))
            .map(|s| s.size())
            .max()
            .unwrap_or(0);
        Ok(sizes)
    }

    /// Bytes between the two symbols that bound the stack's region.
    pub fn reserved_stack(&self) -> Result<u64> {
        let elf = self.elf()?;
        let address = |name: &str| {
            let symbol = elf.symbols().find(|s| s.name() == Ok(name));
            symbol.map(|s| s.address()).with_context(|| format!("no symbol {name}"))
        };
        Ok(address("_stack_start")?.saturating_sub(address("_stack_end")?))
    }

    /// Symbols of an allocator or of the panic machinery: there must be none.
    pub fn forbidden_symbols(&self) -> Result<Vec<String>> {
        let elf = self.elf()?;
        let forbidden = |name: &str| {
            [
                "__rust_alloc",
                "__rust_realloc",
                "__rdl_",
                "__rg_",
                "panic_fmt",
                "panic_bounds_check",
                "a_panic_is_reachable",
            ]
            .iter()
            .any(|bad| name.contains(bad))
        };
        Ok(elf.symbols().filter_map(|s| s.name().ok()).filter(|n| forbidden(n)).map(str::to_owned).collect())
    }

    /// The most stack that a run can take; from [`crate::board::Board::build_with_stack_sizes`].
    pub fn deepest_stack(&self) -> Result<Deepest> {
        let elf = self.elf()?;
        CallGraph::read(&elf, &frames(&elf)?)?.deepest()
    }
}

/// Address and stack of each function, bytes. `.stack_sizes` holds 4 bytes of address and a ULEB128 for each.
fn frames(elf: &object::File<'_>) -> Result<Vec<(u64, u64)>> {
    let section = elf.section_by_name(".stack_sizes").context("the ELF file has no .stack_sizes")?;
    let mut data = section.data()?;
    let mut found = Vec::new();
    while let Some((address, rest)) = data.split_first_chunk::<4>() {
        let address = u64::from(u32::from_le_bytes(*address) & !1);
        data = rest;
        let (mut size, mut shift) = (0u64, 0u32);
        while let Some((&byte, rest)) = data.split_first() {
            data = rest;
            size |= u64::from(byte & 0x7F) << shift.min(63);
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        found.push((address, size));
    }
    Ok(found)
}
