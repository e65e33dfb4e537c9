//! Paging-structure formats and the walk as a pure function over a reader of physical memory (SDM 3A §4).
