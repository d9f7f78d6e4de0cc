"""What a member of a gang makes of its end: what other libraries say when a peer is gone, and of a taken port."""

import socket

import pytest

from services.trainer_worker.domain import Attempt
from services.trainer_worker.gang import lost_its_peer, port_is_taken
from tests.unit.task_facts import NOW
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.queue import Member, Rendezvous
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig

IN_TORCH = 'File "torch/distributed/distributed_c10d.py", line 2810, in all_reduce'
GLOO, C10D = "third_party/gloo/gloo/transport/tcp", "torch/csrc/distributed/c10d"


@pytest.mark.parametrize(
    ("exception", "message", "traceback", "is_lost"),
    [
        ("RuntimeError", f"[{GLOO}/pair.cc:534] Connection closed by peer [127.0.0.1]:40661", None, True),
        (
            "RuntimeError",
            f"[{GLOO}/pair.cc:553] Read error [127.0.0.1]:40661: Connection reset by peer",
            None,
            True,
        ),
        ("RuntimeError", f"[{GLOO}/pair.cc:446] writev [127.0.0.1]:1: Broken pipe", None, True),
        (
            "RuntimeError",
            f"[{GLOO}/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
            None,
            True,
        ),
        (
            "torch.distributed.DistStoreError",
            "Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
            None,
            True,
        ),
        (
            "torch.distributed.DistNetworkError",
            "The client socket has timed out after 60000ms while trying to connect to (10.0.0.7, 29400).",
            None,
            True,
        ),
        ("torch.distributed.DistNetworkError", "failed to recv, got 0 bytes", None, True),
        (
            "torch.distributed.DistBackendError",
            f"NCCL error in: {C10D}/NCCLUtils.hpp:275, remote process exited or there was a network error, "
            "NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error",
            None,
            True,
        ),
        (
            "torch.distributed.DistBackendError",
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=42, OpType=ALLREDUCE, …)",
            IN_TORCH,
            True,
        ),
        ("torch.distributed.DistBackendError", "NCCL communicator was aborted on rank 0.", None, True),
        ("ConnectionResetError", "[Errno 104] Connection reset by peer", IN_TORCH, True),
        # what a member met by itself
        (
            "ConnectionResetError",
            "[Errno 104] Connection reset by peer",
            'File "train.py", line 9, in fetch',
            False,
        ),
        ("ValueError", "expected 3 classes, got 4", IN_TORCH, False),
        ("RuntimeError", "The size of tensor a (3) must match the size of tensor b (4)", IN_TORCH, False),
        (
            "torch.distributed.DistNetworkError",
            "The server socket has failed to listen on any local network address. port: 29400, useIpv6: false, "
            "code: -98, name: EADDRINUSE, message: address already in use",
            None,
            False,
        ),
        (
            "torch.distributed.DistBackendError",
            "NCCL error in: ncclInvalidUsage: Duplicate GPU detected",
            None,
            False,
        ),
        (None, "killed by SIGKILL", None, False),
    ],
)
def test_a_failure_that_only_says_that_a_peer_was_gone_is_told_apart(
    exception: str | None, message: str, traceback: str | None, is_lost: bool
) -> None:
    failure = Failure(
        failure_class=FailureClass.USER_ERROR, message=message, exception=exception, traceback=traceback
    )
    assert lost_its_peer(failure) is is_lost


def test_out_of_memory_is_a_member_s_own_whatever_it_says_beside_it() -> None:
    message = f"CUDA out of memory; [{GLOO}/pair.cc:534] Connection closed by peer"
    oom = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message=message, exception="RuntimeError")
    assert not lost_its_peer(oom)
    assert not lost_its_peer(None)


def a_member(rank: int, port: int) -> Attempt:
    members = [Member(rank=one, worker_id=f"w{one}", incarnation="one") for one in range(2)]
    return Attempt(
        task_id="t",
        attempt=1,
        incarnation="one",
        name="t",
        config=TaskConfig(recipe="script"),
        slots=Slots(),
        rank=rank,
        members=members,
        rendezvous=Rendezvous(id="t.1", host="127.0.0.1", port=port),
        received_at=NOW,
    )


def test_a_port_that_another_program_has_is_said_by_rank_0_alone() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        failure = port_is_taken(a_member(0, port))
        assert failure is not None
        assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
        assert f"port {port}, where the members of the run were to meet, cannot be used" in failure.message
        assert "TRAINWRIGHT_WORKER_PORTS" in (failure.hint or "")
        assert port_is_taken(a_member(1, port)) is None, "it is another machine's port"
    assert port_is_taken(a_member(0, port)) is None
