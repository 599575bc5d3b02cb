//! Memory in whole cache lines.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// 64 bytes on a cache line of their own: the unit in which packed weights and caches are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// Lines of their own pages, huge ones where the system gives them: a strided layer's cache is
/// megabytes of which each step reads another corner, and small pages would miss the TLB there.
#[derive(Debug)]
pub struct Lines(MmapMut);

impl Lines {
    /// `n` lines of zeros; room for one at least.
    pub fn zeroed(n: usize) -> Self {
        let map = MmapMut::map_anon(n.max(1) * size_of::<Line>());
        // As for any allocation: there is no way on without memory.
        let map = map.expect("the system gives memory");
        #[cfg(target_os = "linux")]
        // Refused where the kernel has no huge pages: then small ones must do.
        let _ = map.advise(memmap2::Advice::HugePage);
        Self(map)
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Lines {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Line] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
