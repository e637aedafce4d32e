#pragma once
// For loops that wait for another thread without letting go of the core.

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sidewinder {

// Leaves a moment to the other thread of the core.
#if defined(__x86_64__)
inline void relax() { _mm_pause(); }
#else
inline void relax() {}
#endif

}  // namespace sidewinder
