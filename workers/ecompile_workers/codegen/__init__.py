"""From a segment to code: passes, C, toolchain, bundles, loading. The loader needs numpy only."""
