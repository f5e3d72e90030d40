// An exported surrogate, run by onnxruntime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "card.hpp"

namespace physgen {

// What one sample is drawn from.
struct Row {
  std::vector<double> conditions;  // in the card's order and units
  std::int64_t seed = 0;
  std::vector<float> noise;  // standard normal; if empty, that of the seed
};

class Surrogate {
 public:
  // Reads a folder that `physgen export --to onnx` wrote, on one thread. Throws CardError.
  explicit Surrogate(const std::filesystem::path& folder);

  const Card& card() const { return card_; }

  // The samples of rows, one after the other, each of card().output_size numbers. A sample depends
  // on its own row alone. Domains are not checked here, as the caller may have allowed others.
  std::vector<float> sample(const std::vector<Row>& rows);

 private:
  void run(const std::vector<Row>& rows, std::size_t first, std::size_t last,
           std::vector<float>& samples);

  Card card_;
  Ort::Env env_;
  Ort::Session session_;
};

}  // namespace physgen
