"""What is read of a cluster file: the machines, who provides them, and the commands that set them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from orchestrator.machines.cluster import Kind, price_of


class _Part(BaseModel):
    # The keys are Ray's, which checks them by its own schema; these are the ones that are read here.
    # Built when a cluster file is read: most commands read none.
    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)


class Provider(_Part):
    """Who provides the machines."""

    type: str | None = None
    region: str | None = None
    availability_zone: str | None = None


class NodeType(_Part):
    """A kind of machine."""

    resources: Mapping[str, float] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)
    node_config: Mapping[str, object] = Field(default_factory=dict)  # the machine, in its provider's words
    min_workers: int = 0
    max_workers: int | None = None

    @field_validator("resources", "labels", "node_config", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return {} if value is None else value

    @property
    def price(self) -> float:
        """What an hour costs. Raise ClusterError where the label is no number."""
        return price_of(self.labels)


class ClusterFile(_Part):
    """What is read of a cluster file."""

    provider: Provider = Provider()
    head_node_type: str | None = None
    available_node_types: Mapping[str, NodeType] = Field(default_factory=dict)
    max_workers: int = 0
    file_mounts: Mapping[str, str] = Field(default_factory=dict)
    head_start_ray_commands: Sequence[str] | None = None
    worker_start_ray_commands: Sequence[str] | None = None
    setup_commands: Sequence[str] | None = None
    head_setup_commands: Sequence[str] | None = None
    auth: Mapping[str, object] = Field(default_factory=dict)
    metadata: Mapping[str, object] = Field(default_factory=dict)  # ours: Ray does not look into it

    @field_validator("available_node_types", "file_mounts", "auth", "metadata", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return {} if value is None else value

    @property
    def head(self) -> NodeType:
        """The kind of machine that the head is."""
        return self.available_node_types.get(self.head_node_type or "", NodeType())

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The node types that the autoscaler may start. Raise ClusterError where a price is no number."""
        if self.provider.type == "local":
            return ()  # all the machines there are join at once, with what Ray finds on them
        return tuple(
            Kind(name, type_.resources, self._most(type_), type_.price)
            for name, type_ in self.available_node_types.items()
            if name != self.head_node_type
        )

    @property
    def prices(self) -> tuple[float, float]:
        """What an hour costs: of the head alone, and with all the workers that may come."""
        dearest = sorted((kind.price for kind in self.kinds for _ in range(kind.most)), reverse=True)
        return self.head.price, self.head.price + sum(dearest[: self.max_workers])

    def commands(self) -> list[str]:
        """What sets a node up."""
        return [*(self.setup_commands or ()), *(self.head_setup_commands or ())]

    def _most(self, type_: NodeType) -> int:
        """How many of the type there may be at once."""
        return self.max_workers if type_.max_workers is None else min(type_.max_workers, self.max_workers)
