#include "shower_model.hpp"

#include <cmath>
#include <utility>

namespace physgen {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kGolden = 0.6180339887498949;
constexpr std::int64_t kPrime = 1000003;

// Of a voxel that is a whole ring: were it always the same, all showers would lie to one side.
double anywhere(std::int64_t seed, std::size_t voxel) {
  const double turns = (static_cast<double>(seed % kPrime) + voxel * kPi) * kGolden;
  return 2 * kPi * (turns - std::floor(turns)) - kPi;
}

// What the conditions of showers are in the host, by their names and units in the card.
double quantity(const Condition& condition, const FastTrack& track) {
  if (condition.name == "incident_energies" && condition.unit == "MeV") return track.energy_MeV;
  if (condition.name == "direction_x") return track.direction[0];
  if (condition.name == "direction_y") return track.direction[1];
  if (condition.name == "direction_z") return track.direction[2];
  throw CardError("the condition " + condition.name + " [" + condition.unit +
                  "] is none that this program knows of a particle");
}

}  // namespace

ShowerModel::ShowerModel(Surrogate surrogate, Sink sink, bool allow_outside_domain)
    : surrogate_(std::move(surrogate)),
      sink_(std::move(sink)),
      allow_outside_domain_(allow_outside_domain) {
  const Card& card = surrogate_.card();
  if (!card.geometry)
    throw CardError(card.recipe + ": its card has no geometry, so its samples are no showers");
  conditions_of(FastTrack{});
}

bool ShowerModel::IsApplicable(const ParticleDefinition& particle) {
  return particle.pdg == surrogate_.card().geometry->pdg;
}

bool ShowerModel::ModelTrigger(const FastTrack& track) {
  return allow_outside_domain_ || is_inside(track);
}

void ShowerModel::require_inside(const FastTrack& track) const {
  for (const Condition& one : surrogate_.card().conditions) one.require(quantity(one, track));
}

void ShowerModel::DoIt(const FastTrack& track, FastStep& step) {
  if (!allow_outside_domain_) require_inside(track);
  waiting_.push_back({track.event, track.track, track.seed, !is_inside(track)});
  rows_.push_back({conditions_of(track), track.seed, std::exchange(noise_, {})});
  step.KillPrimaryTrack();
}

void ShowerModel::Flush() {
  const std::vector<float> voxels = surrogate_.sample(rows_);
  for (std::size_t i = 0; i < waiting_.size(); ++i)
    deposit(waiting_[i], voxels.data() + i * surrogate_.card().output_size);
  waiting_.clear();
  rows_.clear();
}

std::vector<double> ShowerModel::conditions_of(const FastTrack& track) const {
  std::vector<double> values;
  for (const Condition& one : surrogate_.card().conditions) values.push_back(quantity(one, track));
  return values;
}

bool ShowerModel::is_inside(const FastTrack& track) const {
  for (const Condition& one : surrogate_.card().conditions)
    if (!one.contains(quantity(one, track))) return false;
  return true;
}

void ShowerModel::deposit(const Waiting& shower, const float* voxels) const {
  const Geometry& geometry = *surrogate_.card().geometry;
  for (const Layer& layer : geometry.layers)
    for (std::size_t i_alpha = 0; i_alpha < static_cast<std::size_t>(layer.n_alpha); ++i_alpha)
      for (std::size_t i_r = 0; i_r < layer.n_r(); ++i_r) {
        const std::size_t voxel = layer.first_voxel + i_alpha * layer.n_r() + i_r;
        const float energy = voxels[voxel];
        if (energy == 0) continue;
        const double r = (layer.r_edges_mm[i_r] + layer.r_edges_mm[i_r + 1]) / 2;
        const double alpha =
            layer.n_alpha == 1
                ? anywhere(shower.seed, voxel)
                : geometry.phi_offset_rad + (i_alpha + 0.5) * 2 * kPi / layer.n_alpha;
        sink_({shower.event, shower.track, layer.id, i_alpha, i_r, r, alpha, energy,
               shower.outside});
      }
}

}  // namespace physgen
