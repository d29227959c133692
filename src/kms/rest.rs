//! A plugin that nobody asks gives back what it has mapped of its own program.
//!
//! The kernel maps 64 KB around each place of a file that is touched, and a start alone touches most of a large program. Those
//! pages stay in the file's cache, so the next call has them back without reading the disk; meanwhile they count for nobody.

use std::fs;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Gives back the pages of this program's file that are mapped to be read or run. What cannot be given back is kept.
pub(super) fn give_pages_back() {
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in of_program(&smaps, give_pages_back as fn() as usize) {
        give_back(&range);
    }
}

#[expect(unsafe_code, reason = "no safe call does this; the one place in kprov that needs it")]
fn give_back(range: &Range<usize>) {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: the range is a mapping of the running program's own file, which is never unmapped, has no page that differs from
    // the file (`Anonymous: 0`) and cannot get one, since it is not writable. Where a page is touched again, the kernel maps the
    // same content, as it does after it has taken pages back by itself, which it may do at any time.
    let given = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
    // A kernel that refuses leaves everything as it is.
    let _ = given;
}

/// The mappings, in a process's `smaps`, of the file that has the code at `address`: those that cannot be written, and hold
/// nothing but what is in the file.
fn of_program(smaps: &str, address: usize) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of(line) {
            mappings.push(mapping);
        } else if let (Some(rest), Some(last)) = (line.strip_prefix("Anonymous:"), mappings.last_mut()) {
            last.is_as_in_file = rest.trim() == "0 kB";
        }
    }
    let own = mappings.iter().find(|mapping| mapping.range.contains(&address)).map(|mapping| mapping.file);
    let fits = |mapping: &Mapping<'_>| {
        Some(mapping.file) == own && mapping.file.1 != "0" && mapping.is_as_in_file && !mapping.is_writable
    };
    mappings.into_iter().filter(fits).map(|mapping| mapping.range).collect()
}

struct Mapping<'a> {
    range: Range<usize>,
    /// Device and inode; the latter is 0 where there is no file.
    file: (&'a str, &'a str),
    is_writable: bool,
    is_as_in_file: bool,
}

impl<'a> Mapping<'a> {
    /// Reads the first line of a mapping (proc_pid_smaps(5)); `None` of any other line.
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        let is_writable = words.next()?.contains('w');
        let file = (words.nth(1)?, words.next()?);
        Some(Self { range, file, is_writable, is_as_in_file: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 00000000 08:01 77                         /opt/a program
Size:                  4 kB
Anonymous:             0 kB
2000-5000 r-xp 00001000 08:01 77                         /opt/a program
Anonymous:             0 kB
5000-6000 r--p 00004000 08:01 77                         /opt/a program
Anonymous:             4 kB
6000-7000 rw-p 00005000 08:01 77                         /opt/a program
Anonymous:             0 kB
7000-8000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
8000-9000 r-xp 00000000 08:01 78                         /lib/libc.so.6
Anonymous:             0 kB
9000-a000 r--p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_the_programs_and_as_in_its_file_goes() {
        assert_eq!(of_program(SMAPS, 0x2abc), [0x1000..0x2000, 0x2000..0x5000]);
        assert_eq!(of_program(SMAPS, 0x8000).as_slice(), std::slice::from_ref(&(0x8000..0x9000)));
        for elsewhere in [0x7000, 0x9000, 0xf000, 0] {
            assert!(of_program(SMAPS, elsewhere).is_empty(), "{elsewhere:x}");
        }
        // A kernel that does not tell is not trusted.
        assert!(of_program(&SMAPS.replace("Anonymous:", "Nothing:"), 0x2abc).is_empty());
        assert!(of_program("", 0).is_empty());
    }

    #[test]
    fn this_program_gives_back_and_goes_on() {
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            // Resident pages that are files'.
            statm.split(' ').nth(2).unwrap().parse::<u64>().unwrap()
        };
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(!of_program(&smaps, give_pages_back as fn() as usize).is_empty());
        let before = resident();
        give_pages_back();
        let after = resident();
        assert!(after < before, "{before} pages before, {after} after");
    }
}
