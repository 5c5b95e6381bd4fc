//! `cargo xtask size`: flash, RAM, arena and stack against each board's budget.
use anyhow::{Result, bail};
use clap::Args;

use crate::board::{BOARDS, Board};
use crate::firmware::Firmware;

/// Print what each firmware takes of flash, RAM, arena and stack; fail over the board's budget.
#[derive(Args)]
pub struct Size {
    /// Only this board.
    #[arg(long, value_parser = crate::board::parse)]
    pub(crate) board: Option<&'static Board>,
}

impl Size {
    /// Measures, prints, and compares with the budgets.
    pub fn run(self) -> Result<()> {
        let mut over = Vec::new();
        for board in BOARDS.iter().filter(|b| self.board.is_none_or(|chosen| chosen == *b)) {
            report(board, &mut over)?;
        }
        if !over.is_empty() {
            bail!("over budget or forbidden: {}", over.join("; "));
        }
        Ok(())
    }
}

fn report(board: &Board, over: &mut Vec<String>) -> Result<()> {
    let firmware = Firmware::read(&board.build()?)?;
    let sizes = firmware.sizes()?;
    println!("{} ({})", board.name, board.core);
    let rows = [
        ("flash, without the model", sizes.flash, board.flash_budget),
        ("arena", sizes.arena, board.arena_budget),
        ("other static RAM", sizes.ram.saturating_sub(sizes.arena), board.ram_budget),
    ];
    for (what, bytes, budget) in rows {
        let verdict = if bytes <= budget { "" } else { "  OVER" };
        println!("  {what:<26} {bytes:>8} of {budget:>8} bytes{verdict}");
        if bytes > budget {
            over.push(format!("{}: {what}", board.name));
        }
    }
    let forbidden = firmware.forbidden_symbols()?;
    println!(
        "  allocator, panic symbols   {}",
        if forbidden.is_empty() { "none".to_owned() } else { forbidden.join(", ") }
    );
    over.extend(forbidden.iter().map(|symbol| format!("{}: {symbol}", board.name)));

    let stacks = Firmware::read(&board.build_with_stack_sizes()?)?.stack_sizes()?;
    println!("  largest stack frames, of {} functions:", stacks.len());
    for (name, bytes) in stacks.iter().take(6) {
        println!("  {bytes:>8}  {name}");
    }
    // No function of the firmware calls itself, so no chain of calls is deeper than all of them together.
    let sum: u64 = stacks.iter().map(|(_, bytes)| bytes).sum();
    let reserved = firmware.reserved_stack()?;
    println!("  {sum:>8}  all functions together, of {reserved} bytes reserved: a bound on any chain of calls");
    if sum > reserved {
        over.push(format!("{}: {sum} bytes of stack frames, {reserved} reserved", board.name));
    }
    Ok(())
}
