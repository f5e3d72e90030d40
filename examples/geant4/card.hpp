// The card of an exported surrogate: what a host has to know before it calls the model.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace physgen {

// A card or model that is missing, was changed, or cannot be used here.
struct CardError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A condition outside the domain in which samples were learned.
struct OutsideDomain : std::domain_error {
  using std::domain_error::domain_error;
};

struct Condition {
  std::string name, unit;
  double low, high;         // infinite where the card names no limit
  std::vector<int> labels;  // empty for a real number

  // Whether a value lies in the domain; NaN does not.
  bool contains(double value) const;
  // Throws OutsideDomain, which says what the domain is.
  void require(double value) const;
};

struct Input {
  std::string name, role;  // noise, seed, condition or vector
  std::vector<std::size_t> shape;
};

struct Layer {
  int id, n_alpha;
  std::vector<double> r_edges_mm;
  std::size_t first_voxel;

  std::size_t n_r() const { return r_edges_mm.size() - 1; }
};

// Voxels of a calorimeter; that of layer, sector and ring is first_voxel + i_alpha * n_r + i_r.
struct Geometry {
  int pdg;  // of the particles whose showers these are
  double phi_offset_rad;
  std::vector<Layer> layers;  // front to back
};

struct Card {
  std::string recipe;
  std::string model;  // content of the model's file, whose hash the card has
  std::vector<Input> inputs;
  std::string output;
  std::size_t output_size;  // numbers of a sample
  std::vector<Condition> conditions;
  bool draws_noise;  // the model draws it from a seed a sample; if not, the host gives it
  std::size_t noise_size;
  std::optional<Geometry> geometry;
};

// Reads card and model of a folder that `physgen export --to onnx` wrote, and checks the hashes of
// both. Throws CardError.
Card read_card(const std::filesystem::path& folder);

}  // namespace physgen
