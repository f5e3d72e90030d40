#include "noise.hpp"

#include <array>
#include <cmath>

namespace physgen {
namespace {

using Block = std::array<std::uint32_t, 4>;

constexpr double kPi = 3.14159265358979323846;

// Salmon et al., SC 2011: a bijection of a counter of four words, keyed by two.
Block philox(Block counter, std::uint32_t first, std::uint32_t second) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t left = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t right = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(right >> 32) ^ counter[1] ^ first,
               static_cast<std::uint32_t>(right),
               static_cast<std::uint32_t>(left >> 32) ^ counter[3] ^ second,
               static_cast<std::uint32_t>(left)};
    first += 0x9E3779B9;
    second += 0xBB67AE85;
  }
  return counter;
}

}  // namespace

std::vector<float> normal(std::int64_t seed, std::size_t size) {
  constexpr double words = 4294967296.0;
  const auto key = static_cast<std::uint64_t>(seed);
  std::vector<float> numbers;
  numbers.reserve(size + 3);
  for (std::uint32_t block = 0; numbers.size() < size; ++block) {
    const Block w = philox({block, 0, 0, 0}, static_cast<std::uint32_t>(key),
                           static_cast<std::uint32_t>(key >> 32));
    for (int pair : {0, 2}) {
      const double radius = std::sqrt(-2 * std::log((w[pair] + 0.5) / words));
      const double angle = w[pair + 1] * (2 * kPi / words);
      numbers.push_back(static_cast<float>(radius * std::cos(angle)));
      numbers.push_back(static_cast<float>(radius * std::sin(angle)));
    }
  }
  numbers.resize(size);
  return numbers;
}

}  // namespace physgen
