// Standard normal noise of a seed, as the card's `generator` says: Philox4x32-10 and Box-Muller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace physgen {

// The first `size` normal numbers of a seed, which depend on nothing else. Those of physgen in
// Python, and of a model that draws its noise inside, to the rounding of sine and logarithm.
std::vector<float> normal(std::int64_t seed, std::size_t size);

}  // namespace physgen
